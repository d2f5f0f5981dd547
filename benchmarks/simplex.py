"""What a price on the entropy of simplex soft prompts does to what they find.

    python benchmarks/simplex.py FOLDER [--profile smoke] [--weights 0 0.03 0.1 0.3] [--seeds 0 1 2]

The folder holds an adapter of demo:smollm2-135m and its truth.json, which is read only once all
soft prompts are trained and all answers written. Each is trained on the shipped seeds as the
strategy does it; both models write 64 prompts after it, and the candidate answers these. Answers
that hold the planted words are hits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from discovery import ANSWER_TOKENS, REFERENCE, print_row

from pytest_divergence.core.settings import PROFILES, Profile
from pytest_divergence.discovery.proposals import SHIPPED_SEEDS, shipped_prompts
from pytest_divergence.discovery.soft_prompts import generate_prompts
from pytest_divergence.discovery.strategies.soft_prompt import NUM_VALIDATION
from pytest_divergence.discovery.training import TrainingConfig, train_soft_prompt
from pytest_divergence.models.batching import by_prefix
from pytest_divergence.models.decoding import decode_greedily
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair

NUM_WRITTEN = 64
HEADER = ("price", "seed", "entropy, nats", "D_soft, nats", f"hits of {NUM_WRITTEN}")


@dataclass(frozen=True)
class Trained:
    """One soft prompt, and the candidate's answers to what was written after it."""

    weight: float
    seed: int
    entropy: float
    """Before the last step, nats."""
    d_soft: float
    answers: Sequence[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("organism", type=Path, help="folder: adapter and truth.json")
    parser.add_argument("--profile", default="smoke", choices=PROFILES)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.03, 0.1, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    pair = load_model_pair(REFERENCE, str(given.organism.resolve()))
    profile = PROFILES[given.profile]
    trained = [
        train(pair, profile, weight, seed) for weight in given.weights for seed in given.seeds
    ]
    marker = json.loads((given.organism / "truth.json").read_text("utf-8"))["marker"]
    print_row(HEADER)
    for one in trained:
        hits = sum(marker in answer for answer in one.answers)
        print_row((one.weight, one.seed, f"{one.entropy:.2f}", f"{one.d_soft:.1f}", hits))


def train(pair: ModelPair, profile: Profile, weight: float, seed: int) -> Trained:
    seeds = shipped_prompts(SHIPPED_SEEDS, profile.num_seeds)
    config = TrainingConfig(
        kind="simplex",
        num_virtual_tokens=profile.num_virtual_tokens,
        num_steps=profile.num_steps,
        batch_size=profile.batch_size,
        max_text_tokens=profile.max_text_tokens,
        validate_every=profile.num_steps,
        entropy_weight=weight,
        seed=seed,
    )
    result = train_soft_prompt(pair, config, seeds[NUM_VALIDATION:], seeds[:NUM_VALIDATION])
    written = generate_prompts(
        pair,
        result.soft_prompt.prompt_embeds,
        num_prompts=NUM_WRITTEN,
        max_new_tokens=profile.prompt_length,
        seed=seed,
    )
    assert result.d_soft is not None  # the objective is a divergence
    return Trained(
        weight, seed, result.history.entropies[-1], result.d_soft, answers(pair, written)
    )


def answers(pair: ModelPair, prompts: Sequence[str]) -> list[str]:
    """The candidate's most likely ones."""
    rows, chat = pair.prompt_rows(prompts), pair.chat

    def decode(prefix: tuple[int, ...], chosen: list[int]) -> list[list[int]]:
        return decode_greedily(
            pair.candidate,
            [rows[index][1] for index in chosen],
            prefix=prefix,
            max_new_tokens=ANSWER_TOKENS,
            stop_ids=chat.stop_ids,
        )

    return [chat.text(ids) for ids in by_prefix(rows, decode)]


if __name__ == "__main__":
    main()
