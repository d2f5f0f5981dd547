"""Float32 products through oneDNN against torch's own choice: the same work in turn, as a ratio.

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
