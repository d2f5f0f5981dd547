"""Scoring of stored cases against a bare transformers loop over the same tokens.

Prints the ratio of both, run in turn: python benchmarks/replay.py MODEL_1 MODEL_2
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

import torch
from sides import local
from timing import ratio, seconds

from pytest_divergence import ModelPair, load_model_pair, score_prompts
from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, shipped_prompts
from pytest_divergence.scoring.continuations import Continuations
from pytest_divergence.scoring.teacher_forcing import SCORING_BATCH

NUM_CASES = 20
NUM_TURNS = 5


def bare_loop(pair: ModelPair, rows: Sequence[list[int]]) -> None:
    """Forward every row through both models, padded in batches, and read the logits needed."""
    ordered = sorted(rows, key=len)
    with torch.no_grad():
        for start in range(0, len(ordered), SCORING_BATCH):
            batch = ordered[start : start + SCORING_BATCH]
            longest = max(map(len, batch))
            ids = torch.tensor([[0] * (longest - len(row)) + row for row in batch])
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch])
            for side in map(local, pair.sides):
                with side.activate():
                    side.model(
                        input_ids=ids.to(pair.device),
                        attention_mask=mask.to(pair.device),
                        logits_to_keep=17,
                        use_cache=False,
                    )


def main() -> None:
    pair = load_model_pair(*sys.argv[1:3])
    prompts = shipped_prompts(SHIPPED_CONTROLS, NUM_CASES)
    first = score_prompts(pair, prompts, num_continuations=1, max_new_tokens=16)
    stored: list[Continuations] = [score.continuations for score in first]
    rows = [
        [*score.prompt_ids, *ids[:-1]]
        for score in first
        for ids in (*score.continuations.reference, *score.continuations.candidate)
    ]

    def ours() -> object:
        return score_prompts(pair, prompts, continuations=stored)

    def bare() -> None:
        bare_loop(pair, rows)

    ours()
    bare()
    pairs = [(seconds(ours), seconds(bare)) for _ in range(NUM_TURNS)]
    print(f"{NUM_CASES} stored cases, {sum(map(len, rows))} tokens through each model")
    print(f"score_prompts      {statistics.median(mine for mine, _ in pairs):6.2f} s")
    print(f"bare transformers  {statistics.median(theirs for _, theirs in pairs):6.2f} s")
    print(f"ratio              {ratio(*zip(*pairs, strict=True))}")


if __name__ == "__main__":
    main()
