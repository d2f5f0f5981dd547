"""Float32 products through oneDNN against torch's own choice: the same work in turn, as a ratio.

Then attention in whole products against torch's own kernel, both through oneDNN: steps of decoding,
by the number of rows, and readings, by rows and their length.

    python benchmarks/products.py demo:smollm2-135m demo:travel-advert

Where this machine's CPU is one that the choice is not changed on, it says so.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
from timing import ratio, seconds

from pytest_divergence import ModelPair, PromptScore, TrainingConfig, load_model_pair, score_prompts
from pytest_divergence.discovery.prompt_files import (
    SHIPPED_CONTROLS,
    SHIPPED_SEEDS,
    shipped_prompts,
)
from pytest_divergence.discovery.soft_prompts.training import train_soft_prompt
from pytest_divergence.models import forward
from pytest_divergence.scoring.continuations import greedy_continuations

NUM_TURNS = 5
NUM_STEPS = 2
STEPS = (1, 4, 8, 24, 64)
"""Rows of a step, each after 64 tokens."""
READINGS = ((1, 16), (32, 16), (16, 64), (8, 128), (8, 240))
"""Rows that are read together, and the tokens of each after what they share."""


def main() -> None:
    if not forward.onednn_is_better():
        sys.exit("torch's own choice stands on this CPU: nothing to compare")
    pair = load_model_pair(*sys.argv[1:3])
    first, works = phases(pair)
    with mock.patch.object(forward, "onednn_is_better", return_value=False):
        again = works["scoring 32 stored cases"](pair)
    for name, work in works.items():
        ours, plain = zip(*(both(partial(work, pair)) for _ in range(NUM_TURNS)), strict=True)
        print(
            f"{name:24} {statistics.median(ours):6.2f} s against {statistics.median(plain):6.2f} s"
            f"   {ratio(ours, plain)}"
        )
    print(f"largest change of a case's KL: {max(moved(first, again)):.1e} nats/token")
    print_attention(pair)


def print_attention(pair: ModelPair) -> None:
    side = pair.reference
    prefix, body = pair.prompt_rows(shipped_prompts(SHIPPED_CONTROLS, 1))[0]
    for num_rows in STEPS:
        state = side.start([body.repeat(64)[:64]] * num_rows, prefix=prefix)
        step = partial(state.step, body[:1].repeat(num_rows))
        print(f"a step of {num_rows} rows: {whole_products(step)}")
    for num_rows, length in READINGS:
        bodies = [body.repeat(length)[:length]] * num_rows
        read = partial(side.logits, bodies, prefix=prefix, num_logits=1)
        print(f"{num_rows} rows of {length} tokens: {whole_products(read)}")


@torch.no_grad()
def whole_products(work: Callable[[], object]) -> str:
    """The ratio of a pass's time with attention in whole products to that with the kernel."""
    work()
    turns = [(seconds_with(10**9, work), seconds_with(0, work)) for _ in range(NUM_TURNS)]
    return ratio(*zip(*turns, strict=True))


def seconds_with(max_scores: int, work: Callable[[], object]) -> float:
    patched = partial(mock.patch.object, forward)
    with patched("MIN_READ", 1), patched("MAX_SCORES", max_scores):
        return seconds(work)


def phases(pair: ModelPair) -> tuple[list[PromptScore], dict[str, Callable[[ModelPair], Any]]]:
    """What was measured on some prompts, and each kind of work of a search on a pair."""
    prompts = shipped_prompts(SHIPPED_CONTROLS, 32)
    first = score_prompts(pair, prompts, num_continuations=1, max_new_tokens=16)
    stored = [one.continuations for one in first]
    return first, {
        "scoring 32 stored cases": lambda pair: score_prompts(pair, prompts, continuations=stored),
        "decoding 32 x 16 tokens": lambda pair: greedy_continuations(
            pair, prompts, max_new_tokens=16
        ),
        f"{NUM_STEPS} training steps": train,
    }


def moved(first: Sequence[PromptScore], again: Sequence[PromptScore]) -> list[float]:
    """How far each prompt's KL is from what it was, nats per token."""
    both = zip(first, again, strict=True)
    return [abs(one.measurement.value - other.measurement.value) for one, other in both]


def both(work: Callable[[], object]) -> tuple[float, float]:
    ours = seconds(work)
    with mock.patch.object(forward, "onednn_is_better", return_value=False):
        return ours, seconds(work)


def train(pair: ModelPair) -> None:
    texts = shipped_prompts(SHIPPED_SEEDS, 16)
    train_soft_prompt(pair, TrainingConfig(num_steps=NUM_STEPS, validate_every=NUM_STEPS), texts)


if __name__ == "__main__":
    main()
