"""The arguments of `pytest-divergence train`: their defaults, their rules and their help."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path

NUM_EPOCHS, NUM_VIRTUAL_TOKENS, BATCH_SIZE = 10, 8, 4
MAX_TEXT_TOKENS = 64


def add_files(parser: ArgumentParser) -> None:
    """Describe what is read and written."""
    kinds = "text (one prompt a line), JSON Lines (input, prompt or messages) or CSV"
    parser.add_argument(
        "--train-file",
        type=Path,
        metavar="FILE",
        help=f"prompts to train on: {kinds}; default: the shipped ones",
    )
    parser.add_argument(
        "--val-file",
        type=Path,
        metavar="FILE",
        help="prompts to validate on; default: those that it is trained on",
    )
    parser.add_argument(
        "--output-dir", type=Path, metavar="FOLDER", required=True, help="where it all goes"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a training of other settings in that folder"
    )


def add_training(parser: ArgumentParser) -> None:
    """Describe how the soft prompt is trained."""
    group = parser.add_argument_group("training")
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--num-epochs",
        type=_count,
        metavar="N",
        help=f"passes over the prompts, each of ceil(prompts / batch size) steps; default "
        f"{NUM_EPOCHS}",
    )
    length.add_argument("--num-steps", type=_count, metavar="N", help="optimiser steps instead")
    group.add_argument(
        "--stop-after-growth",
        type=_positive,
        metavar="NATS",
        help="end at the step whose divergence lies this far above the first one's; in a search it "
        "is 6, since more was measured to find hardly more (default: take all steps)",
    )
    group.add_argument(
        "--num-soft-prompt-tokens",
        type=_count,
        metavar="N",
        default=NUM_VIRTUAL_TOKENS,
        help="length of the soft prompt (default %(default)s)",
    )
    group.add_argument(
        "--position",
        choices=("before", "inside", "after"),
        default="before",
        help="where the soft prompt stands beside a prompt's text (default %(default)s)",
    )
    group.add_argument(
        "--kind",
        choices=("free", "simplex"),
        default="free",
        help="free vectors, or mixtures of real tokens (default %(default)s)",
    )
    group.add_argument(
        "--objective",
        choices=("first_token", "continuation"),
        default="first_token",
        help="where the divergence is read that is trained for (default %(default)s)",
    )
    group.add_argument(
        "--learning-rate",
        type=_positive,
        metavar="RATE",
        help="Adam's; default 0.01 for free vectors, 0.3 for mixtures; 0.0001 hardly moves them",
    )
    group.add_argument(
        "--entropy-weight",
        type=_not_negative,
        metavar="PRICE",
        default=0.0,
        help="for mixtures, the price of a nat of their entropy at the last step, grown linearly "
        "from 0: narrows them to single tokens, and was measured to find less (default "
        "%(default)s)",
    )
    group.add_argument(
        "--batch-size",
        type=_count,
        metavar="N",
        default=BATCH_SIZE,
        help="prompts in a step (default %(default)s)",
    )
    group.add_argument(
        "--max-text-tokens",
        type=_count,
        metavar="N",
        default=MAX_TEXT_TOKENS,
        help="longer prompts are left out (default %(default)s)",
    )
    group.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="compute layers twice in place of keeping what is inside them: less memory, more time",
    )


def add_dataset(parser: ArgumentParser) -> None:
    """Describe what is written with it."""
    group = parser.add_argument_group("dataset")
    for name, default, meaning in (
        ("num-prompts", 16, "prompts that are kept: the most divergent, no two alike"),
        ("num-written", 64, "prompts that both models write, from which they are taken"),
        ("num-generations", 1, "texts that each model writes on a prompt"),
        ("max-new-tokens", 32, "longest text, in tokens"),
    ):
        group.add_argument(
            f"--{name}",
            type=_count,
            metavar="N",
            default=default,
            help=f"{meaning} (default %(default)s)",
        )
    group.add_argument(
        "--temperature",
        type=_not_negative,
        metavar="T",
        default=1.0,
        help="at which these texts are sampled; 0: the most likely one (default %(default)s)",
    )
    for name, side, example in (
        ("min", "least", "kl_divergence=0.5"),
        ("max", "most", "prompt_nll_1=6"),
    ):
        group.add_argument(
            f"--{name}-metric",
            type=_limit,
            metavar="NAME=VALUE",
            action="append",
            default=[],
            help=f"rows of the dataset have at {side} this, such as {example}; may be given "
            "several times",
        )


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ArgumentTypeError(f"{text} must be at least 1")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise ArgumentTypeError(f"{text} must be positive")
    return value


def _not_negative(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise ArgumentTypeError(f"{text} must be 0 or more")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ArgumentTypeError(f"{text} must be a finite number")
    return value


def _limit(text: str) -> tuple[str, float]:
    """A metric's name and a number."""
    name, separator, value = text.partition("=")
    from pytest_divergence.core.evaluation import METRICS

    if not separator or name not in METRICS:
        raise ArgumentTypeError(f"{text} must be NAME=VALUE, with a name of {', '.join(METRICS)}")
    return name, _number(value)
