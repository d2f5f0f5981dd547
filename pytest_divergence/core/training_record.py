"""What a training in a folder was, and how far it has come: `training.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, JsonValue

from pytest_divergence.core.cases import SCHEMA_VERSION, Count, Number, Record, SchemaVersion
from pytest_divergence.core.changes import describe_changes
from pytest_divergence.core.report import TrainingSummary

Status = Literal["training", "trained", "complete"]


class TrainingRecord(Record):
    """One training and the dataset that it led to."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    status: Status = "training"
    """`training`: a checkpoint may be there; `trained`: the soft prompt is; `complete`: the dataset
    too."""
    settings: dict[str, JsonValue]
    """All that the soft prompt depends on: config, models with their tokenizer and device, chat
    format and digests of the texts."""
    dataset_settings: dict[str, JsonValue]
    """All that the dataset depends on besides."""
    num_texts: Count
    """Texts that were short enough to be trained on."""
    num_validation_texts: Count
    num_steps: Count
    """Planned; fewer were taken where the divergence had grown by `stop_after_growth` before."""
    training: TrainingSummary = TrainingSummary(name="soft-prompt")
    """Loss, validation, D_soft and D_hard."""
    gradient_norms: list[Number] = Field(default_factory=list)
    """One a step."""
    entropies: list[Number] = Field(default_factory=list)
    """Mean entropy of the mixtures before each step, nats; none for free vectors."""
    num_written: Count = 0
    """Distinct prompts that both models wrote after the soft prompt."""
    num_rows: Count = 0
    """Of the dataset."""


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Describe each setting that differs between two nested mappings."""
    old, new = dict(_flat(before)), dict(_flat(after))
    return describe_changes({name: (old.get(name), new.get(name)) for name in sorted({*old, *new})})


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
