"""Where a suite comes from: models, versions, settings, calibration, effort.

The file NAME.provenance.json. Knows the record and its file; computes no digest.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import Annotated, Any

from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import (
    NATS_PER_TOKEN,
    SCHEMA_VERSION,
    Count,
    Number,
    Record,
    SchemaVersion,
)
from pytest_divergence.core.settings import BUILT_IN_METRICS
from pytest_divergence.core.suites import load_document, write_document


class ModelProvenance(Record):
    """One model, so that a later session can tell whether it is the same one."""

    spec: str
    """As given, without secrets."""
    kind: str
    """How it was loaded: hub, folder, adapter, demo."""
    weights_sha256: str | None = None
    commit: str | None = None
    """Commit on the Hub, where it came from there."""


class AddedNoise(Record):
    """A noise floor in a plugin's metric, and in its unit."""

    metric: str
    unit: str
    value: Number


class NoiseFloor(Record):
    """What the measurement reads for the reference against itself."""

    value: Number
    """Symmetric KL, nats per token."""
    num_measurements: Count
    added: AddedNoise | None = None
    """The same in the asserted metric, where that is a plugin's; left out of files otherwise."""

    def of(self, metric: str) -> float | None:
        """The floor of a metric's numbers, in its unit; None where it was not measured."""
        if metric in BUILT_IN_METRICS:
            return self.value
        return self.added.value if self.added and self.added.metric == metric else None

    def unit_of(self, metric: str) -> str:
        """The unit of what `of` says."""
        is_added = self.added is not None and self.added.metric == metric
        return self.added.unit if self.added is not None and is_added else NATS_PER_TOKEN

    @model_serializer(mode="wrap")
    def _without_the_usual_metric(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        row: dict[str, Any] = dump(self)
        return {key: value for key, value in row.items() if key != "added" or value is not None}


class TypicalShift(Record):
    """What the measurement reads on ordinary prompts, in the metric's unit."""

    mean: Number
    p99: Number
    max: Number
    num_controls: Count


class Bound(Record):
    """The asserted limit in the metric's unit, with the parts that it came from."""

    value: Number
    parts: dict[str, Number] = Field(default_factory=dict)
    provisional: bool = False
    """Still to change, once behaviours are confirmed."""
    label: str = ""
    """How it was made, for people: `1.5 x 99th percentile of 256 controls`."""


class Effort(Record):
    """What the run cost."""

    prompts_scored: Count = 0
    tokens_forwarded: Count = 0
    """Both models counted."""
    seconds: Number = 0.0


class Provenance(Record):
    """Everything that a suite's numbers depend on."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    tool_version: str
    created: str
    """Time of writing, ISO 8601."""
    key: str
    """Digest of all that may change a result; equal keys may share cached work."""
    reference: ModelProvenance
    candidate: ModelProvenance
    tokenizer_sha256: str
    template_sha256: str | None = None
    template_arguments: dict[str, JsonValue] = Field(default_factory=dict)
    dtype: str
    device: str
    versions: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    noise_floor: NoiseFloor | None = None
    typical_shift: TypicalShift | None = None
    bound: Bound | None = None
    nll_limit: Number | None = None
    """Negative log-likelihood, nats per token, above which a prompt is off distribution."""
    behaviours: list[Behaviour] = Field(default_factory=list)
    num_rows: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Rows of the suite, cases and controls: a file cut between two rows reads as a shorter one."""
    effort: Effort = Effort()


def load_provenance(path: str | PathLike[str]) -> Provenance:
    """Read a provenance file. Raises SuiteError where it cannot be used."""
    return load_document(path, Provenance)


def with_rows(provenance: Provenance, rows: Iterable[object]) -> Provenance:
    """The provenance of a suite that holds `rows`: whoever writes the suite writes this with it."""
    return provenance.model_copy(update={"num_rows": sum(1 for _ in rows)})


def write_provenance(path: str | PathLike[str], provenance: Provenance) -> None:
    """Write a provenance file: old or new, never half. Raises StoreError."""
    write_document(path, provenance)
