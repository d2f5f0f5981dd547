"""`pytest-divergence train`: a soft prompt on two models, and the dataset that it leads to."""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import replace
from functools import partial

import pytest

from pytest_divergence.cli._output import complain, say_lines
from pytest_divergence.cli._project import in_project, measuring, pytest_words
from pytest_divergence.cli._session_arguments import NUM_EPOCHS
from pytest_divergence.core.settings import Settings
from pytest_divergence.discovery.prompt_files import SHIPPED_SEEDS, read_prompts
from pytest_divergence.discovery.soft_prompts.trainer import DivergenceTrainer
from pytest_divergence.discovery.soft_prompts.training import training_rows
from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
from pytest_divergence.discovery.soft_prompts.training_folder import DatasetPlan, TrainingFolder
from pytest_divergence.plugin.session import DivergenceSession
from pytest_divergence.reports.training import plan_line, training_lines
from pytest_divergence.reports.wording import duration

NUM_LINES = 10
"""Lines of progress that a training says."""


def run(given: Namespace) -> int:
    """Train, write the dataset, and print what came of it."""
    return in_project(pytest_words(given), partial(_train, given))


def _train(given: Namespace, config: pytest.Config) -> int:
    folder = _folder(given, measuring(config, complain))
    record = folder.start(force=given.force)
    complain(plan_line(record))
    left_out = len(folder.texts) - record.num_texts
    if left_out:
        complain(
            f"{left_out} of {len(folder.texts)} texts are left out: longer than "
            f"--max-text-tokens={given.max_text_tokens}"
        )
    try:
        record = folder.train(record, _Steps())
        complain("letting both models write prompts with it")
        record = folder.write_dataset(record)
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from here")
        raise
    say_lines(training_lines(record, folder.rows()))
    say_lines(["", "files", *(f"  {given.output_dir / name}" for name in folder.files)])
    return 0


def _folder(given: Namespace, session: DivergenceSession) -> TrainingFolder:
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

    def __init__(self) -> None:
        self._started = 0.0
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        left = ""
        if self._first is None:
            # The first step costs more than others; it may be one in the middle of a training.
            self._first, self._started = done, time.monotonic()
        elif done % max(1, total // NUM_LINES) and done != total:
            return
        elif done < total:
            took = (time.monotonic() - self._started) / (done - self._first)
            left = f", about {duration(took * (total - done))} left"
        complain(f"step {done} of {total}{left}")
