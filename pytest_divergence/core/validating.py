"""All that is wrong with a suite and the files beside it, not only the first fault.

Knows how faults are collected. The rules are those of reading, in `suites`, `tokens`, `provenance`
and `stored`: what has no fault here, a replay can read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.provenance import load_provenance
from pytest_divergence.core.stored import read_suite
from pytest_divergence.core.suites import (
    SUITE_SUFFIX,
    rows_or_faults,
    sidecar_path,
    validated,
)
from pytest_divergence.core.tokens import StoredTokens

PROVENANCE, TOKENS = "provenance.json", "tokens.jsonl"
Row = TypeVar("Row", Case, StoredTokens)


def suite_beside(path: Path) -> Path:
    """The suite that a file belongs to: its own path, or for another file the suite beside it."""
    kind = next((kind for kind in (PROVENANCE, TOKENS) if path.name.endswith(f".{kind}")), None)
    return path.with_name(path.name.removesuffix(f".{kind}") + SUITE_SUFFIX) if kind else path


def faults_of(path: Path) -> list[SuiteError]:
    """What is wrong with a suite, its tokens and its provenance; none where all can be read.

    A fault of a row names its line. What only shows once every row can be read, such as a suite
    that was cut off between two rows, is looked for last.
    """
    return list(_row_by_row(path)) or list(_as_a_whole(path))


def _row_by_row(path: Path) -> Iterator[SuiteError]:
    if not path.name.endswith(SUITE_SUFFIX):
        yield SuiteError(path, None, f"is no suite; the name of one ends in {SUITE_SUFFIX}")
        return
    yield from _row_faults(path, Case)
    tokens, provenance = sidecar_path(path, TOKENS), sidecar_path(path, PROVENANCE)
    if tokens.is_file():
        yield from _row_faults(tokens, StoredTokens)
    if provenance.is_file():
        try:
            load_provenance(provenance)
        except SuiteError as fault:
            yield fault


def _row_faults(path: Path, model: type[Row]) -> Iterator[SuiteError]:
    lines: dict[str, int] = {}
    try:
        for number, row in rows_or_faults(path):
            if isinstance(row, SuiteError):
                yield row
                continue
            try:
                id_ = validated(path, number, row, model).id
            except SuiteError as fault:
                yield fault
                continue
            if lines.setdefault(id_, number) != number:
                yield SuiteError(path, number, f"line {lines[id_]} again (id {id_}); drop one")
    except SuiteError as fault:
        yield fault


def _as_a_whole(path: Path) -> Iterator[SuiteError]:
    try:
        read_suite(path)
    except SuiteError as fault:
        yield fault
