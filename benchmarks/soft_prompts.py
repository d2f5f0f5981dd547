"""What a choice in training soft prompts does to what they find.

    python benchmarks/soft_prompts.py FOLDER... --growths 4 6 8 inf [--seeds 0 1 2]
    python benchmarks/soft_prompts.py FOLDER... --entropy-weights 0 0.03 0.1 0.3 [--seeds 0 1 2]

Each folder holds an adapter of demo:smollm2-135m and its truth.json, which is read only once the
soft prompts are trained and all answers written. They are trained on the shipped seeds as the
strategy does it: free ones until the divergence has grown by each number of nats, `inf` for all
steps, or simplex ones with each price on the entropy of their mixtures. Both models write 64
prompts after each, and the candidate answers these. Answers that hold the planted words are hits.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from discovery import REFERENCE, answers_of, num_shown, print_row
from planted import markers

from pytest_divergence.core.settings import PROFILES, Profile
from pytest_divergence.discovery.generation import generate_prompts
from pytest_divergence.discovery.prompt_files import SHIPPED_SEEDS, shipped_prompts
from pytest_divergence.discovery.soft_prompts.training import train_soft_prompt
from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
from pytest_divergence.discovery.strategies.soft_prompt import ENOUGH_GROWTH, NUM_VALIDATION
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair

NUM_WRITTEN = 64
HEADER = (
    "organism", "growth", "price", "seed", "steps", "tokens", "entropy, nats", "D_soft, nats",
    f"hits of {NUM_WRITTEN}",
)  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """One soft prompt, and the candidate's answers to what was written after it."""

    config: TrainingConfig
    num_steps: int
    tokens_forwarded: int
    """By the training alone."""
    entropy: float | None
    """Before the last step, nats; of mixtures only."""
    d_soft: float
    answers: Sequence[str]

    def row(self, organism: str, planted: Sequence[str]) -> Sequence[object]:
        growth = self.config.stop_after_growth
        return (
            organism,
            "-" if growth is None else growth,
            self.config.entropy_weight,
            self.config.seed,
            self.num_steps,
            self.tokens_forwarded,
            "-" if self.entropy is None else f"{self.entropy:.2f}",
            f"{self.d_soft:.1f}",
            num_shown(self.answers, planted),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("organisms", nargs="+", type=Path, help="folders: adapter and truth.json")
    parser.add_argument("--profile", default="smoke", choices=PROFILES)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--growths", type=float, nargs="+", metavar="NATS")
    choice.add_argument("--entropy-weights", type=float, nargs="+", metavar="PRICE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    profile = PROFILES[given.profile]
    base = TrainingConfig(
        num_virtual_tokens=profile.num_virtual_tokens,
        num_steps=profile.num_steps,
        stop_after_growth=ENOUGH_GROWTH,
        batch_size=profile.batch_size,
        max_text_tokens=profile.max_text_tokens,
        validate_every=profile.num_steps,
    )
    if given.growths:
        limits = (None if math.isinf(one) else one for one in given.growths)
        configs = [replace(base, stop_after_growth=limit) for limit in limits]
    else:
        prices = given.entropy_weights
        configs = [replace(base, kind="simplex", entropy_weight=price) for price in prices]
    print_row(HEADER)
    for folder in given.organisms:
        pair = load_model_pair(REFERENCE, str(folder.resolve()))
        trained = [
            train(pair, profile, replace(config, seed=seed))
            for config in configs
            for seed in given.seeds
        ]
        planted = markers(json.loads((folder / "truth.json").read_text("utf-8")))
        for one in trained:
            print_row(one.row(folder.name, planted))


def train(pair: ModelPair, profile: Profile, config: TrainingConfig) -> Trained:
    seeds = shipped_prompts(SHIPPED_SEEDS, profile.num_seeds)
    before = pair.tokens_forwarded
    result = train_soft_prompt(pair, config, seeds[NUM_VALIDATION:], seeds[:NUM_VALIDATION])
    tokens = pair.tokens_forwarded - before
    written = generate_prompts(
        pair,
        result.soft_prompt.prompt_embeds,
        num_prompts=NUM_WRITTEN,
        max_new_tokens=profile.prompt_length,
        seed=config.seed,
    )
    history = result.history
    assert result.d_soft is not None  # the objective is a divergence
    return Trained(
        config,
        len(history.loss),
        tokens,
        history.entropies[-1] if history.entropies else None,
        result.d_soft,
        answers_of(pair, written),
    )


if __name__ == "__main__":
    main()
