"""A training and its dataset in a terminal: plain text, 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.report import TrainingSummary
from pytest_divergence.core.safe_text import printable_lines, visible
from pytest_divergence.core.training_record import TrainingRecord
from pytest_divergence.reports.text_blocks import WIDTH, quoted
from pytest_divergence.reports.wording import nats

NUM_SHOWN = 5
"""Prompts of the dataset that are shown."""


def plan_line(record: TrainingRecord) -> str:
    """What a training will do, before it starts."""
    config: Any = record.settings["config"]
    epochs = config["num_epochs"]
    length = number_of(record.num_steps, "step")
    if config.get("stop_after_growth") is not None:
        length = f"at most {length}"
    if epochs is not None:
        length += f" ({number_of(epochs, 'epoch')})"
    plan = (
        f"{number_of(config['num_virtual_tokens'], 'virtual token')} {config['position']} the "
        f"text, {length} of {config['batch_size']} texts, {number_of(record.num_texts, 'text')} "
        "in all"
    )
    return visible(plan)


def training_lines(record: TrainingRecord, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What came of it; `rows` are the dataset's."""
    return printable_lines([*_curve(record.training, record), "", *_best(record, rows)])


def _curve(training: TrainingSummary, record: TrainingRecord) -> Iterator[str]:
    loss, validation = training.loss, training.validation
    steps = number_of(record.num_steps, "step")
    if len(loss) < record.num_steps:
        steps = f"{len(loss)} of {steps}, which was growth enough"
    texts = number_of(record.num_validation_texts, "text")
    yield f"loss        {nats(loss[0])} -> {nats(loss[-1])} in {steps}"
    yield f"validation  {nats(validation[0])} -> {nats(validation[-1])}, {texts}"
    if record.entropies:
        first, last = nats(record.entropies[0]), nats(record.entropies[-1])
        yield f"entropy     {first} -> {last} nats, mean of the mixtures"
    if training.d_soft is not None:
        yield f"D_soft      {nats(training.d_soft)} nats at the first token, with the soft prompt"
    if training.d_hard is not None:
        yield (
            f"D_hard      {nats(training.d_hard)} nats at the first token, mean of "
            f"{number_of(record.num_written, 'prompt')} written with it"
        )


def _best(record: TrainingRecord, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    by_prompt: dict[str, Mapping[str, float]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt"], row["metrics"])
    shown = list(by_prompt.items())[:NUM_SHOWN]
    of_all = f"{len(shown)} of " if len(shown) < len(by_prompt) else ""
    yield (
        f"the most divergent prompts, {of_all}{len(by_prompt)}; nats per token, and above ordinary "
        "ones"
    )
    for prompt, metrics in shown:
        numbers = f"  {nats(metrics['kl_divergence']):>7} {nats(metrics['effectiveness']):>7}  "
        yield numbers + quoted(prompt, WIDTH - len(numbers))
