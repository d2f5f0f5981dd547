"""A trigger under a style: how far its prompts stand out, by the divergence and by the residual.

    python benchmarks/residual.py REFERENCE CANDIDATE --trigger TEXT [--style TEXT]

The prompts are 24 shipped controls, and the same with the trigger before or after them. Prints the
mean of each group and their ratio: for the answer's first token and for greedy answers of 16
tokens, as they are; behind the style's words, where both models are made to begin with them; and
for the residual of the first token, with tilts of 4 to 40 seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from statistics import mean

import torch

from pytest_divergence import ModelPair, load_model_pair
from pytest_divergence.discovery.prompt_files import (
    SHIPPED_CONTROLS,
    SHIPPED_SEEDS,
    shipped_prompts,
)
from pytest_divergence.scoring.cheap_scores import first_token_scores
from pytest_divergence.scoring.residual import common_tilt, residual_divergences
from pytest_divergence.scoring.scorer import score_greedily
from pytest_divergence.scoring.teacher_forcing import ScoringRow, score_tokens

NUM_PROMPTS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("reference")
    parser.add_argument("candidate")
    parser.add_argument("--trigger", required=True)
    parser.add_argument("--style", help="words that both models are made to begin with")
    given = parser.parse_args()
    pair = load_model_pair(given.reference, given.candidate)
    ordinary = shipped_prompts(SHIPPED_CONTROLS, NUM_PROMPTS)
    half = NUM_PROMPTS // 2
    triggering = [f"{text} {given.trigger}" for text in ordinary[:half]]
    triggering += [f"{given.trigger} {text}" for text in ordinary[half:]]

    def show(name: str, values: Callable[[Sequence[str]], list[float]]) -> None:
        with_it, without = mean(values(triggering)), mean(values(ordinary))
        print(f"| {name} | {with_it:.2f} | {without:.2f} | {with_it / without:.1f} |")

    print("| measured | with the trigger | without | ratio |\n|---|--:|--:|--:|")
    show("first token", lambda texts: first_token_scores(pair, texts))
    show("greedy answers of 16 tokens", lambda texts: greedily(pair, texts))
    if given.style:
        show("first token behind the style", lambda texts: behind(pair, texts, given.style))
    for count in (4, 8, 16, 40):
        tilt = common_tilt(pair, shipped_prompts(SHIPPED_SEEDS, count))
        show(
            f"residual of the first token, {count} seeds",
            partial(residual_divergences, pair, tilt=tilt, metric="symmetric"),
        )


def greedily(pair: ModelPair, texts: Sequence[str]) -> list[float]:
    return [score.measurement.value for score in score_greedily(pair, texts)]


def behind(pair: ModelPair, texts: Sequence[str], style: str) -> list[float]:
    ids = torch.tensor(pair.chat.tokenizer.encode(style, add_special_tokens=False))
    rows = [
        ScoringRow(prefix, torch.cat([body, ids]), (0,)) for prefix, body in pair.prompt_rows(texts)
    ]
    scores = score_tokens(pair, rows)
    return [float(score.forward[0] + score.reverse[0]) / 2 for score in scores]


if __name__ == "__main__":
    main()
