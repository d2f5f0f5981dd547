"""`pytest-divergence train`: a soft prompt on two models, and the dataset that it leads to."""

from __future__ import annotations

import math
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_divergence.cli._settings import MEASURED_PAIR, add_settings, pytest_words

if TYPE_CHECKING:
    import pytest

    from pytest_divergence.core.settings import Settings
    from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
    from pytest_divergence.discovery.soft_prompts.training_folder import DatasetPlan, TrainingFolder
    from pytest_divergence.plugin.progress_bar import PhaseLines
    from pytest_divergence.plugin.session import DivergenceSession


FIELDS = (*MEASURED_PAIR, "seed")
NUM_LINES = 10
"""Lines of progress that a training says."""

NUM_EPOCHS, NUM_VIRTUAL_TOKENS, BATCH_SIZE = 10, 8, 4
MAX_TEXT_TOKENS = 64


def add(parser: ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Train a soft prompt that drives two models apart, let both models write prompts with it, "
        "and keep a dataset of the most divergent: soft_prompt.safetensors, training.json, "
        "divergent_dataset.pt and divergent_dataset.jsonl in one folder. A training that was "
        "stopped goes on with the same command, and one of other settings is not overwritten. The "
        "project's ini file, conftest.py and plugins hold."
    )
    add_files(parser)
    add_training(parser)
    add_dataset(parser)
    add_settings(parser, FIELDS)
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Train, write the dataset, and print what came of it."""
    from pytest_divergence.cli._project import in_project

    return in_project(pytest_words(given, FIELDS), partial(_train, given))


def _train(given: Namespace, config: pytest.Config) -> int:
    from pytest_divergence.cli._project import measuring
    from pytest_divergence.plugin.progress_bar import PhaseLines
    from pytest_divergence.reports.training import plan_line, training_lines

    listener = PhaseLines()
    folder = _folder(given, measuring(config, listener))
    record = folder.start(force=given.force)
    listener.say(plan_line(record))
    left_out = len(folder.texts) - record.num_texts
    if left_out:
        listener.say(
            f"{left_out} of {len(folder.texts)} texts are left out: longer than "
            f"--max-text-tokens={given.max_text_tokens}"
        )
    try:
        record = folder.train(record, _Steps(listener))
        listener.say("letting both models write prompts with it")
        record = folder.write_dataset(record)
    except KeyboardInterrupt:
        listener.say("interrupted; the same command goes on from here")
        raise
    print("\n".join(training_lines(record, folder.rows())))
    print("\nfiles", *(given.output_dir / name for name in folder.files), sep="\n  ")
    return 0


def _folder(given: Namespace, session: DivergenceSession) -> TrainingFolder:
    from dataclasses import replace

    from pytest_divergence.discovery.prompt_files import SHIPPED_SEEDS, read_prompts
    from pytest_divergence.discovery.soft_prompts.trainer import DivergenceTrainer
    from pytest_divergence.discovery.soft_prompts.training import training_rows
    from pytest_divergence.discovery.soft_prompts.training_folder import TrainingFolder

    config, plan = _config(given, session.resolved.settings), _plan(given)
    texts = read_prompts(given.train_file or SHIPPED_SEEDS, option="--train-file")
    validation = read_prompts(given.val_file, option="--val-file") if given.val_file else []
    session.say("loading the models")
    pair = session.pair()
    num_texts = len(training_rows(pair, texts, config.max_text_tokens))
    # As many values of the validation curve as there are epochs.
    every = max(1, config.total_steps(num_texts) // (config.num_epochs or NUM_EPOCHS))
    config = replace(config, validate_every=every)
    trainer = DivergenceTrainer.from_pair(pair, config)
    return TrainingFolder(given.output_dir, trainer, texts, validation, plan)


def _config(given: Namespace, settings: Settings) -> TrainingConfig:
    from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig

    is_in_epochs = given.num_steps is None
    return TrainingConfig(
        kind=given.kind,
        num_virtual_tokens=given.num_soft_prompt_tokens,
        position=given.position,
        num_steps=given.num_steps,
        num_epochs=(given.num_epochs or NUM_EPOCHS) if is_in_epochs else None,
        stop_after_growth=given.stop_after_growth,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        entropy_weight=given.entropy_weight,
        objective=given.objective,
        metric=settings.metric,
        max_text_tokens=given.max_text_tokens,
        gradient_checkpointing=given.gradient_checkpointing,
        seed=settings.seed,
    )


def _plan(given: Namespace) -> DatasetPlan:
    from pytest_divergence.discovery.soft_prompts.training_folder import DatasetPlan

    return DatasetPlan(
        num_prompts=given.num_prompts,
        num_written=given.num_written,
        num_generations=given.num_generations,
        temperature=given.temperature,
        max_new_tokens=given.max_new_tokens,
        min_metrics=dict(given.min_metric),
        max_metrics=dict(given.max_metric),
    )


class _Steps:
    """Says now and then how far a training is, and how long it will take."""

    def __init__(self, listener: PhaseLines) -> None:
        self._listener = listener
        self._started = 0.0
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        from pytest_divergence.reports.wording import duration

        left = ""
        if self._first is None:
            # The first step costs more than others; it may be one in the middle of a training.
            self._first, self._started = done, time.monotonic()
        elif done % max(1, total // NUM_LINES) and done != total:
            return
        elif done < total:
            took = (time.monotonic() - self._started) / (done - self._first)
            left = f", about {duration(took * (total - done))} left"
        self._listener.say(f"step {done} of {total}{left}")


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
    from pytest_divergence.core.evaluation_record import METRICS

    if not separator or name not in METRICS:
        raise ArgumentTypeError(f"{text} must be NAME=VALUE, with a name of {', '.join(METRICS)}")
    return name, _number(value)
