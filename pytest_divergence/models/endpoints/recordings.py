"""A recorded reference in the place of a model: it tells what was recorded, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from pytest_divergence.core.errors import MeasurementError, ModelLoadError
from pytest_divergence.core.file_names import REFERENCE, sidecar_path
from pytest_divergence.core.recorded_reference import (
    RecordedReference,
    RecordedRow,
    load_record,
    row_key,
    unpacked,
)
from pytest_divergence.core.setting_names import setting
from pytest_divergence.models.endpoints.positions import Position
from pytest_divergence.models.fingerprints import text_digest
from pytest_divergence.models.specs import ModelSpec


@dataclass(frozen=True)
class Recording:
    """Record of what a suite's reference told."""

    path: Path
    role: str
    record: RecordedReference
    names_weights = True
    writes = False
    num_slots = 1

    @classmethod
    def beside(cls, spec: ModelSpec, role: str) -> Recording:
        """Read the record beside a spec's suite. Raises `ModelLoadError`, `SuiteError`."""
        path = sidecar_path(spec.path, REFERENCE)
        if not os.path.lexists(path):
            raise ModelLoadError(
                f"{role}={spec}: the suite has no recorded reference, {path.name}; make one with "
                f"pytest-divergence record {spec.path.name} {setting('model_1')}=…"
            )
        return cls(path, role, load_record(path))

    @property
    def name(self) -> str:
        """Option and file, for the beginning of a message."""
        return f"{self.role} (recorded in {self.path.name})"

    @property
    def vocab_size(self) -> int:
        """Number of tokens that the reference knows."""
        return self.record.vocab_size

    @property
    def num_told(self) -> int:
        """Number of most likely tokens at each position."""
        return self.record.num_told

    @property
    def digest(self) -> str:
        """Digest of the weights that were recorded."""
        model = self.record.reference
        return model.weights_sha256 or model.commit or text_digest(str(model))

    def connected(self) -> AbstractContextManager[None]:
        """Connect to nothing: the record is here."""
        return nullcontext()

    def positions(
        self,
        connection: None,
        context: Sequence[int],
        token_ids: Sequence[int],
        *,
        is_reversed: bool = False,
        is_read_anew: bool = False,
    ) -> list[Position]:
        """Return what was recorded of a continuation's tokens.

        Raises `MeasurementError` where that is nothing, or cannot be read.
        """
        row = self.record.rows.get(row_key(context, token_ids))
        if row is None:
            raise MeasurementError(
                f"{self.name} holds nothing of these tokens: the suite, its tokenizer or its chat "
                "template has changed since it was recorded; record it again"
            )
        try:
            return _positions(row, len(token_ids), self.num_told)
        except ValueError as error:
            raise MeasurementError(f"{self.name} cannot be read: {error}") from None

    def head(self, connection: None, context: Sequence[int]) -> Position:
        """Raise `MeasurementError`: a record knows the suite's continuations alone."""
        raise MeasurementError(
            f"{self.name} holds the suite's continuations alone, and this asks about other tokens; "
            "give the reference's weights"
        )

    def answer(
        self,
        connection: None,
        context: Sequence[int],
        limit: int,
        seed: int | None,
        temperature: float,
    ) -> list[int]:
        """Raise `MeasurementError`: a record writes nothing."""
        raise MeasurementError(
            f"{self.name} writes no answers, and this needs new ones; give the reference's weights"
        )

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise `ModelLoadError` for a tokenizer that gives other ids than the reference's."""
        if vocabulary_digest(tokenizer) != self.record.vocabulary_sha256:
            raise ModelLoadError(
                f"{self.name} was made with another tokenizer than the candidate's; a divergence "
                "compares probabilities of the same tokens"
            )


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of a tokenizer's tokens and their ids."""
    return text_digest(json.dumps(sorted(tokenizer.get_vocab().items())))


def _positions(row: RecordedRow, count: int, num_told: int) -> list[Position]:
    chosen = unpacked(row.chosen, "f", count)
    head_ids = unpacked(row.head_ids, "i", count * num_told)
    head = unpacked(row.head, "f", count * num_told)
    starts = range(0, count * num_told, num_told)
    return [
        Position(
            value,
            tuple(int(id_) for id_ in head_ids[start : start + num_told]),
            tuple(head[start : start + num_told]),
        )
        for value, start in zip(chosen, starts, strict=True)
    ]
