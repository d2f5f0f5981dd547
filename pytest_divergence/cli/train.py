"""`pytest-divergence train`: train a soft prompt on two models, and write a dataset with it."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from functools import partial

import pytest

from pytest_divergence.cli._output import say_lines
from pytest_divergence.cli._project import in_project, measuring, pytest_words
from pytest_divergence.cli._session_arguments import NUM_EPOCHS, TRAINING, given_fields
from pytest_divergence.core.settings import Settings
from pytest_divergence.discovery.evaluation import EvaluationConfig
from pytest_divergence.discovery.prompt_files import SHIPPED_SEEDS, read_prompts
from pytest_divergence.discovery.soft_prompts.trainer import PairTrainer
from pytest_divergence.discovery.soft_prompts.training import training_rows
from pytest_divergence.discovery.soft_prompts.training_config import DatasetPlan, TrainingConfig
from pytest_divergence.discovery.soft_prompts.training_folder import TrainingFolder
from pytest_divergence.plugin.progress_bar import search_progress
from pytest_divergence.plugin.session import DivergenceSession
from pytest_divergence.reports.training import plan_line, training_lines


def run(given: Namespace) -> int:
    """Train, write the dataset, and print the results."""
    return in_project(pytest_words(given), partial(_train, given))


def _train(given: Namespace, config: pytest.Config) -> int:
    with search_progress(config) as listener:
        folder = _folder(given, measuring(config, listener.say))
        listener.say(plan_line(folder.planned))
        for name, texts, num_usable in (
            ("texts", folder.texts, folder.planned.num_texts),
            ("validation texts", folder.validation_texts, folder.planned.num_validation_texts),
        ):
            left_out = len(texts) - num_usable  # below 0: none given, so it validates on the others
            if left_out > 0:
                listener.say(
                    f"left out {left_out} of {len(texts)} {name}, longer than "
                    f"--max-text-tokens={folder.trainer.config.max_text_tokens}"
                )
        try:
            record, rows = folder.run(listener, force=given.force)
        except KeyboardInterrupt:
            listener.say("interrupted; run the same command to continue")
            raise
    say_lines(training_lines(record, rows))
    say_lines(["", "files", *(f"  {given.output_dir / name}" for name in folder.files)])
    return 0


def _folder(given: Namespace, session: DivergenceSession) -> TrainingFolder:
    config, plan = _config(given, session.resolved.settings), _plan(given)
    EvaluationConfig(  # raises before the models are loaded, not after the training
        num_generations=plan.num_generations,
        temperature=plan.temperature,
        max_new_tokens=plan.max_new_tokens,
    )
    texts = read_prompts(given.train_file or SHIPPED_SEEDS, option="--train-file")
    validation = read_prompts(given.val_file, option="--val-file") if given.val_file else []
    session.say("loading the models")
    pair = session.pair()
    num_texts = len(training_rows(pair, texts, config.max_text_tokens))
    # The validation curve gets one value for each epoch.
    every = max(1, config.total_steps(num_texts) // (config.num_epochs or NUM_EPOCHS))
    config = replace(config, validate_every=every)
    trainer = PairTrainer(pair, config)
    return TrainingFolder(given.output_dir, trainer, texts, validation, plan)


def _config(given: Namespace, settings: Settings) -> TrainingConfig:
    length = {"num_epochs": None} if given.num_steps is not None else {}
    chosen = {**length, **given_fields(given, TrainingConfig)}
    return replace(TRAINING, **chosen, metric=settings.metric, seed=settings.seed)


def _plan(given: Namespace) -> DatasetPlan:
    return DatasetPlan(
        **given_fields(given, DatasetPlan),
        min_metrics=dict(given.min_metric),
        max_metrics=dict(given.max_metric),
    )
