"""Record of what a reference tells of a suite's continuations, to be kept beside the suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pytest_divergence import __version__
from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.file_names import REFERENCE, sidecar_path
from pytest_divergence.core.json_files import write_document
from pytest_divergence.core.provenance import ModelProvenance
from pytest_divergence.core.recorded_reference import (
    MAX_BYTES,
    RecordedReference,
    RecordedRow,
    packed,
    row_key,
)
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.models.endpoints.recordings import vocabulary_digest
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Told
from pytest_divergence.scoring.estimates import told_alone
from pytest_divergence.scoring.suite_rows import case_prompt, check_stored
from pytest_divergence.scoring.teacher_forcing import ScoringRow

NUM_TOLD = 64
"""Most likely tokens that are kept at each position."""


def record_reference(pair: ModelPair, stored: StoredSuite) -> RecordedReference:
    """Measure what the pair's reference tells of a suite's continuations and telling answers.

    Raises `SuiteError` for a suite without continuations, `MeasurementError` where a prompt's ids
    are not those that it was stored with.
    """
    rows = _rows(pair, stored)
    if not rows:
        raise SuiteError(
            stored.suite.path, None, "has no stored continuations, so there is nothing to record"
        )
    side, identity = pair.reference, pair.reference_identity
    num_told = min(NUM_TOLD, side.num_outcomes)
    told = told_alone(side, rows, num_told)
    return RecordedReference(
        tool_version=__version__,
        reference=ModelProvenance(
            spec=identity.spec,
            kind=identity.kind,
            weights_sha256=identity.weights_sha256,
            commit=identity.commit,
        ),
        vocabulary_sha256=vocabulary_digest(pair.chat.tokenizer),
        vocab_size=side.vocab_size,
        num_told=num_told,
        dtype=pair.dtype_name,
        device=str(pair.device),
        rows={_key(row): _packed(found) for row, found in zip(rows, told, strict=True)},
    )


def write_record(suite: Path, record: RecordedReference) -> Path:
    """Write the record beside its suite: old or new, never half.

    Raises SuiteError for one too long; StoreError.
    """
    path = sidecar_path(suite, REFERENCE)
    write_document(path, record, MAX_BYTES)
    return path


def _rows(pair: ModelPair, stored: StoredSuite) -> list[ScoringRow]:
    """Return each stored continuation, and each telling answer, after its prompt."""
    found: list[ScoringRow] = []
    cases = [case for case in stored.suite.rows if case.id in stored.tokens]
    for case in cases:
        check_stored(pair, case, stored.tokens[case.id])
    prompts = pair.prompt_rows([case_prompt(case) for case in cases])
    for case, (prefix, body) in zip(cases, prompts, strict=True):
        tokens = stored.tokens[case.id]
        found += [
            ScoringRow(prefix, body, tuple(ids)) for ids in (*tokens.reference, *tokens.candidate)
        ]
    behaviours = stored.provenance.behaviours if stored.provenance is not None else []
    telling = [told for behaviour in behaviours for told in behaviour.telling]
    answers = zip(pair.prompt_rows([told.prompt for told in telling]), telling, strict=True)
    found += [ScoringRow(prefix, body, tuple(told.token_ids)) for (prefix, body), told in answers]
    return found


def _key(row: ScoringRow) -> str:
    return row_key([*row.prefix, *row.body.tolist()], row.continuation)


def _packed(told: Told) -> RecordedRow:
    return RecordedRow(
        chosen=packed(_floats(told.chosen), "f"),
        head_ids=packed(told.head_ids.flatten().tolist(), "i"),
        head=packed(_floats(told.head), "f"),
    )


def _floats(values: Tensor) -> Sequence[float]:
    """Return finite numbers: a token that is ruled out has the smallest that float32 holds."""
    smallest = torch.finfo(torch.float32).min
    return values.flatten().clamp(min=smallest).tolist()
