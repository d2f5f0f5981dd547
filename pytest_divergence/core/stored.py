"""A suite as it lies on disk, with the files beside it: read as one, and written as one.

Knows which files there are, and that all of them change or none. What is in them, others know.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_divergence.core.cases import Case, Measurement
from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.provenance import Provenance, load_provenance, with_rows
from pytest_divergence.core.store import write_together
from pytest_divergence.core.suites import (
    Suite,
    document_data,
    lines_data,
    load_suite,
    rows_data,
    sidecar_path,
    suite_line,
)
from pytest_divergence.core.tokens import ListedTokens, StoredTokens, load_tokens

NUM_CONTROL_ROWS = 64
"""Controls that a suite carries, at most, so that a replay sees broad change too."""


@dataclass(frozen=True)
class StoredSuite:
    """A suite and the files beside it."""

    suite: Suite
    provenance: Provenance | None
    tokens: Mapping[str, StoredTokens]
    """Continuations by case id; hand-written suites have none."""

    @property
    def measured(self) -> Measurement | None:
        """One of its measurements, which says in what metric it was made; None: it has none."""
        return next((row.kl for row in self.suite.rows if row.kl is not None), None)


def read_suite(path: Path) -> StoredSuite:
    """A suite with its provenance and tokens, where there are any. Raises SuiteError."""
    return _read(path, load_tokens)


def list_suite(path: Path) -> StoredSuite:
    """The same, with continuations that are read when they are asked for: a listing asks for none.

    Raises SuiteError.
    """
    return _read(path, ListedTokens)


def suite_without_cases(path: Path) -> StoredSuite:
    """The suite of a search that kept no case: what stands beside its control rows.

    Only the session that has searched may take it; all others read it as the empty suite it is.
    Raises SuiteError.
    """
    provenance = load_provenance(sidecar_path(path, "provenance.json"))
    return StoredSuite(Suite(path, (), {}), provenance, {})


def _read(path: Path, tokens_in: Callable[[Path], Mapping[str, StoredTokens]]) -> StoredSuite:
    provenance, tokens = (sidecar_path(path, kind) for kind in ("provenance.json", "tokens.jsonl"))
    stored = StoredSuite(
        load_suite(path),
        load_provenance(provenance) if provenance.is_file() else None,
        tokens_in(tokens) if tokens.is_file() else {},
    )
    _check_whole(stored, provenance)
    return stored


def _check_whole(stored: StoredSuite, provenance_path: Path) -> None:
    """Refuse a suite with fewer rows than it was written with; rows may be added by hand."""
    written = stored.provenance.num_rows if stored.provenance is not None else None
    there = len(stored.suite.rows)
    if written is not None and there < written:
        raise SuiteError(
            stored.suite.path,
            None,
            f"holds {there} of the {written} rows that it was written with, so it may have been "
            "cut off; restore it, or where rows were taken out on purpose, set num_rows to "
            f"{there} in {provenance_path.name}",
        )


def write_stored(
    path: Path, rows: Iterable[Case], tokens: Iterable[StoredTokens], provenance: Provenance
) -> None:
    """Write a suite, its tokens and its provenance: all of them, or none where the disk is full.

    A row of the file that says the same as before keeps its text, byte for byte, also where it was
    written by hand. Raises SuiteError, StoreError.
    """
    before = _texts(load_suite(path)) if path.is_file() else {}
    lines = {row.id: suite_line(row) for row in rows}
    kept = {id_: text for id_, (line, text) in before.items() if lines.get(id_) == line}
    tokens_path, provenance_path = (
        sidecar_path(path, kind) for kind in ("tokens.jsonl", "provenance.json")
    )
    stored = (one.model_dump(mode="json") for one in tokens)
    write_together(  # in this order: a suite is there only with its tokens and provenance
        {
            tokens_path: rows_data(tokens_path, stored),
            provenance_path: document_data(provenance_path, with_rows(provenance, lines)),
            path: lines_data(path, {**lines, **kept}),
        }
    )


def _texts(suite: Suite) -> dict[str, tuple[bytes, bytes]]:
    """By id: a row as we would write it, and as it stands in the file."""
    lines = suite.path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    return {row.id: (suite_line(row), lines[suite.lines[row.id] - 1]) for row in suite.rows}
