"""bfloat16 against float32 on this CPU, phase by phase: time as a ratio, and what it does to KL.

python benchmarks/dtypes.py demo:smollm2-135m examples/adapters/travel-advert
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from pytest_divergence import ModelPair, TrainingConfig, load_model_pair, score_prompts
from pytest_divergence.discovery.proposals import SHIPPED_CONTROLS, SHIPPED_SEEDS, shipped_prompts
from pytest_divergence.discovery.training import train_soft_prompt
from pytest_divergence.scoring.scorer import greedy_continuations

NUM_TURNS = 3
NUM_STEPS = 2


def main() -> None:
    pairs = {
        dtype: load_model_pair(*sys.argv[1:3], dtype=dtype) for dtype in ("float32", "bfloat16")
    }
    prompts = shipped_prompts(SHIPPED_CONTROLS, 32)
    first = score_prompts(pairs["float32"], prompts, num_continuations=1, max_new_tokens=16)
    stored = [one.continuations for one in first]
    again = score_prompts(pairs["bfloat16"], prompts, continuations=stored)
    works: dict[str, Callable[[ModelPair], object]] = {
        "scoring 32 stored cases": lambda pair: score_prompts(pair, prompts, continuations=stored),
        "decoding 32 x 16 tokens": lambda pair: greedy_continuations(
            pair, prompts, max_new_tokens=16
        ),
        f"{NUM_STEPS} training steps": train,
    }
    for name, work in works.items():
        exact, short = zip(
            *(
                tuple(seconds(work, pairs[dtype]) for dtype in ("float32", "bfloat16"))
                for _ in range(NUM_TURNS)
            ),
            strict=True,
        )
        ratios = [b / a for a, b in zip(exact, short, strict=True)]
        print(
            f"{name:24} bfloat16 {statistics.median(short):6.2f} s, float32 "
            f"{statistics.median(exact):6.2f} s   {statistics.median(ratios):.2f} x "
            f"(min {min(ratios):.2f}, max {max(ratios):.2f})"
        )
    moved = [
        abs(a.measurement.value - b.measurement.value) for a, b in zip(first, again, strict=True)
    ]
    print(
        f"a case's KL moves by {max(moved):.1e} nats/token at most, by "
        f"{statistics.median(moved):.1e} in the median"
    )


def seconds(work: Callable[[ModelPair], object], pair: ModelPair) -> float:
    started = time.perf_counter()
    work(pair)
    return time.perf_counter() - started


def train(pair: ModelPair) -> None:
    texts = shipped_prompts(SHIPPED_SEEDS, 16)
    train_soft_prompt(pair, TrainingConfig(num_steps=NUM_STEPS, validate_every=NUM_STEPS), texts)


if __name__ == "__main__":
    main()
