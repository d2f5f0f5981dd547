"""Origin of a suite: models, versions, settings, calibration, effort.

The file NAME.provenance.json. Knows the record and its file, whether two records are about the same
pair, and how a behaviour is marked as accepted; computes no digest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import (
    NATS_PER_TOKEN,
    SCHEMA_VERSION,
    Count,
    Number,
    Record,
    SafeId,
    SchemaVersion,
)
from pytest_divergence.core.changes import describe_changes
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS
from pytest_divergence.core.file_names import (
    PROVENANCE,
    AnyPath,
    sidecar_path,
    suite_files,
    suite_record,
)
from pytest_divergence.core.joint_writes import alone_with, finish
from pytest_divergence.core.json_files import load_document, write_document
from pytest_divergence.core.safe_text import safe_line


class ModelProvenance(Record):
    """Identity of one model, so that a later session can recognise it."""

    spec: str
    """Spec as given, without secrets."""
    kind: str
    """Kind of source: hub, folder, adapter, demo."""
    weights_sha256: str | None = None
    commit: str | None = None
    """Commit on the Hub, if it came from there."""

    def __str__(self) -> str:
        """Return the spec and the start of the digest or commit of the weights."""
        digest = self.weights_sha256 or self.commit or ""
        parts = (part[:8] for part in digest.split("+"))  # of an adapter: its base's, and its own
        return f"{safe_line(self.spec)} {'+'.join(parts)}".rstrip()


class AddedNoise(Record):
    """A noise floor in a plugin's metric, and in its unit."""

    metric: str
    unit: str
    value: Number


class NoiseFloor(Record):
    """Measured divergence of a model from itself."""

    value: Number
    """Symmetric KL, nats per token."""
    num_measurements: Count
    added: AddedNoise | None = None
    """Noise floor in the asserted metric, if a plugin added it; else left out of files."""

    def of(self, metric: str) -> float | None:
        """Return the floor of a metric's numbers, in its unit; None where it was not measured."""
        if metric in BUILT_IN_METRICS:
            return self.value
        return self.added.value if self.added and self.added.metric == metric else None

    def unit_of(self, metric: str) -> str:
        """Return the unit of the floor that `of` returns."""
        is_added = self.added is not None and self.added.metric == metric
        return self.added.unit if self.added is not None and is_added else NATS_PER_TOKEN

    @model_serializer(mode="wrap")
    def _without_the_usual_metric(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        row: dict[str, Any] = dump(self)
        return {key: value for key, value in row.items() if key != "added" or value is not None}


class TypicalShift(Record):
    """Measured divergence on ordinary prompts, in the metric's unit."""

    mean: Number
    p99: Number
    max: Number
    num_controls: Count


class Bound(Record):
    """The asserted limit in the metric's unit, with the parts that it came from."""

    value: Number
    parts: dict[str, Number] = Field(default_factory=dict)
    provisional: bool = False
    """Whether it may still change, once behaviours are confirmed."""
    label: str = ""
    """Origin of the value, for people: `auto: nominal 5% limit for 153 prompts`."""


RowDigests = Annotated[str, Field(pattern="^[0-9a-f]{16}(-[0-9a-f]{16})?$")]
"""Digests of a row's prompt, kl and completions, and of its tokens, if it has any."""


class Effort(Record):
    """Cost of the run."""

    prompts_scored: Count = 0
    tokens_forwarded: Count = 0
    """Forwarded tokens of both models together."""
    seconds: Number = 0.0
    tokens_by_kind: dict[str, Count] | None = None
    """`tokens_forwarded` by kind of work; null if they were not counted separately."""


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
    training_data_sha256: str | None = None
    """Digest of the training data that behaviours were looked up in; null without such data."""
    contexts_sha256: str | None = None
    """Digest of the user's file of contexts; null without one."""
    noise_floor: NoiseFloor | None = None
    typical_shift: TypicalShift | None = None
    bound: Bound | None = None
    nll_limit: Number | None = None
    """Negative log-likelihood, nats per token, above which a prompt is off distribution."""
    behaviours: list[Behaviour] = Field(default_factory=list)
    rows: dict[SafeId, RowDigests] | None = None
    """Digests of each row of the suite as written, by id; None in older suites."""
    num_rows: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Number of rows of an older suite; None where `rows` lists them."""
    effort: Effort = Effort()
    source: str | None = None
    """Dataset and commit on the Hub that the suite was read from: `hf:owner/name@COMMIT`."""


def load_provenance(path: AnyPath) -> Provenance:
    """Read a provenance file. Raises SuiteError if it cannot be used."""
    return load_document(path, Provenance)


def provenance_beside(suite: AnyPath) -> Provenance | None:
    """Return the provenance of a suite; None if there is none. Raises SuiteError."""
    path = sidecar_path(suite, PROVENANCE)
    return load_provenance(path) if os.path.lexists(path) else None


def write_provenance(path: AnyPath, provenance: Provenance) -> None:
    """Write a provenance file: old or new, never half. Raises StoreError."""
    write_document(path, provenance)


def pair_changes(before: Provenance, after: Provenance) -> list[str]:
    """Describe what differs between the pairs that two records are about."""
    system_prompt, system_prompt_now = (
        made.settings.get("system_prompt") for made in (before, after)
    )
    return describe_changes(
        {
            "the reference": _models(before.reference, after.reference),
            "the candidate": _models(before.candidate, after.candidate),
            "the tokenizer": (before.tokenizer_sha256, after.tokenizer_sha256),
            "the chat template": (before.template_sha256, after.template_sha256),
            "the template's arguments": (before.template_arguments, after.template_arguments),
            "the system prompt": (system_prompt, system_prompt_now),
        }
    )


def is_same_model(ours: ModelProvenance, theirs: ModelProvenance) -> bool:
    """Whether two models are the same: by weights; else by commit; else by spec."""
    for name in ("weights_sha256", "commit"):
        first, second = getattr(ours, name), getattr(theirs, name)
        if first is not None and second is not None:
            return bool(first == second)
    return ours.spec == theirs.spec


def accept(behaviour_id: str, suites: Sequence[Path]) -> list[Path]:
    """Mark a behaviour as intended in the suites that know it; returns those.

    Raises `SettingsError` where none does, `SuiteError` where a provenance cannot be read;
    `StoreError`.
    """
    changed, known = [], []
    for suite in suites:
        with alone_with(suite_record(suite), suite_files(suite)):
            provenance = provenance_beside(suite)
            behaviours = provenance.behaviours if provenance is not None else []
            ids = [behaviour.id for behaviour in behaviours]
            known += ids
            if provenance is not None and behaviour_id in ids:
                marked = [
                    behaviour.model_copy(update={"accepted": True})
                    if behaviour.id == behaviour_id
                    else behaviour
                    for behaviour in behaviours
                ]
                path = sidecar_path(suite, PROVENANCE)
                write_provenance(path, provenance.model_copy(update={"behaviours": marked}))
                changed.append(suite)
    if not changed:
        where = ", ".join(map(str, suites)) or "the folders given, which hold no suite"
        names = f"; known: {', '.join(known)}" if known else ""
        raise SettingsError(f"no behaviour {behaviour_id} in {where}{names}")
    return changed


def accepted_in(suite: Path) -> list[Behaviour]:
    """Return the accepted behaviours of a suite; none if it does not exist. Raises SuiteError."""
    finish(suite_record(suite), suite_files(suite))
    provenance = provenance_beside(suite)
    behaviours = provenance.behaviours if provenance is not None else []
    return [behaviour for behaviour in behaviours if behaviour.accepted]


def _models(ours: ModelProvenance, theirs: ModelProvenance) -> tuple[object, object]:
    return (None, None) if is_same_model(ours, theirs) else (ours, theirs)
