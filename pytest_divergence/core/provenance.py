"""Where a suite comes from: models, versions, settings, calibration, effort.

The file NAME.provenance.json. Knows the record and its file; computes no digest.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import Annotated

from pydantic import Field, JsonValue

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import SCHEMA_VERSION, Count, Number, Record, SchemaVersion
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


class NoiseFloor(Record):
    """What the measurement reads for the reference against itself, in nats per token."""

    value: Number
    num_measurements: Count


class TypicalShift(Record):
    """What the measurement reads on ordinary prompts, in nats per token."""

    mean: Number
    p99: Number
    max: Number
    num_controls: Count


class Bound(Record):
    """The asserted limit in nats per token, with the parts that it came from."""

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
