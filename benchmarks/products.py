"""Float32 products through oneDNN against torch's own choice: the same work in turn, as a ratio.

    python benchmarks/products.py demo:smollm2-135m examples/adapters/travel-advert

Where this machine's CPU is one that the choice is not changed on, it says so.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from unittest import mock

from pytest_divergence import ModelPair, TrainingConfig, load_model_pair, score_prompts
from pytest_divergence.discovery.proposals import SHIPPED_CONTROLS, SHIPPED_SEEDS, shipped_prompts
from pytest_divergence.discovery.training import train_soft_prompt
from pytest_divergence.models import products
from pytest_divergence.scoring.scorer import greedy_continuations

NUM_TURNS = 5
NUM_STEPS = 2


def main() -> None:
    if not products.onednn_is_better():
        sys.exit("torch's own choice stands on this CPU: nothing to compare")
    pair = load_model_pair(*sys.argv[1:3])
    prompts = shipped_prompts(SHIPPED_CONTROLS, 32)
    first = score_prompts(pair, prompts, num_continuations=1, max_new_tokens=16)
    stored = [one.continuations for one in first]
    works: dict[str, Callable[[], object]] = {
        "scoring 32 stored cases": lambda: score_prompts(pair, prompts, continuations=stored),
        "decoding 32 x 16 tokens": lambda: greedy_continuations(pair, prompts, max_new_tokens=16),
        f"{NUM_STEPS} training steps": lambda: train(pair),
    }
    values = [one.measurement.value for one in first]
    with mock.patch.object(products, "onednn_is_better", return_value=False):
        again = score_prompts(pair, prompts, continuations=stored)
    moved = [abs(one.measurement.value - value) for one, value in zip(again, values, strict=True)]
    for name, work in works.items():
        ours, plain = zip(*(both(work) for _ in range(NUM_TURNS)), strict=True)
        ratios = [a / b for a, b in zip(ours, plain, strict=True)]
        print(
            f"{name:24} {statistics.median(ours):6.2f} s against {statistics.median(plain):6.2f} s"
            f"   {statistics.median(ratios):.2f} x (min {min(ratios):.2f}, max {max(ratios):.2f})"
        )
    print(f"largest change of a case's KL: {max(moved):.1e} nats/token")


def both(work: Callable[[], object]) -> tuple[float, float]:
    ours = seconds(work)
    with mock.patch.object(products, "onednn_is_better", return_value=False):
        return ours, seconds(work)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def train(pair: ModelPair) -> None:
    texts = shipped_prompts(SHIPPED_SEEDS, 16)
    train_soft_prompt(pair, TrainingConfig(num_steps=NUM_STEPS, validate_every=NUM_STEPS), texts)


if __name__ == "__main__":
    main()
