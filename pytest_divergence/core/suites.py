"""A suite as it lies on disk, with the files beside it: read, checked and written as one.

Knows which files there are, and changes all of them or none. Does not know their content.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pytest_divergence.core.cases import Case, Measurement
from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.file_names import (
    PROVENANCE,
    REFERENCE,
    SUITE_SUFFIX,
    TOKENS,
    AnyPath,
    is_suite,
    sidecar_path,
    suite_files,
    suite_record,
)
from pytest_divergence.core.joint_writes import alone_with, finish, replace_together
from pytest_divergence.core.json_files import (
    document_data,
    read_rows,
    rows_data,
    rows_or_faults,
    strict_dumps,
    validated,
    within_limits,
    write_rows,
)
from pytest_divergence.core.provenance import (
    Provenance,
    load_provenance,
    pair_changes,
    provenance_beside,
)
from pytest_divergence.core.recorded_reference import load_record
from pytest_divergence.core.row_digests import check_rows, row_digests
from pytest_divergence.core.tokens import ListedTokens, StoredTokens, load_tokens

MAX_CASES = 100_000

NUM_CONTROL_ROWS = 64
"""Controls that a suite carries, at most, so that a replay sees broad change too."""

Row = TypeVar("Row", Case, StoredTokens)


@dataclass(frozen=True)
class Suite:
    """The rows of one file, in its order."""

    path: Path
    rows: tuple[Case, ...]
    lines: Mapping[str, int]
    """Each row's line number, from 1, by id."""

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """Rows that are tested one by one."""
        return tuple(row for row in self.rows if not row.is_control)

    @cached_property
    def controls(self) -> tuple[Case, ...]:
        """Rows that are measured together, to show broad change."""
        return tuple(row for row in self.rows if row.is_control)

    @cached_property
    def ordinary(self) -> tuple[Case, ...]:
        """Controls that show no behaviour of content, so that they stand for ordinary prompts."""
        return tuple(row for row in self.controls if row.is_ordinary)


@dataclass(frozen=True)
class StoredSuite:
    """A suite and the files beside it."""

    suite: Suite
    provenance: Provenance | None
    tokens: Mapping[str, StoredTokens]
    """Continuations by case id; hand-written suites have none."""

    @property
    def measured(self) -> Measurement | None:
        """One of its measurements, which names the metric; None without any."""
        return next((row.kl for row in self.suite.rows if row.kl is not None), None)

    def bound_of(self, case: Case, given: float | None) -> float | None:
        """Return a case's bound: its row's, else the `given` one, else the suite's, else None."""
        made = self.provenance
        of_suite = made.bound.value if made and made.bound else None
        return next((v for v in (case.max_kl, given, of_suite) if v is not None), None)


def load_suite(path: AnyPath) -> Suite:
    """Read a suite. Raises SuiteError naming the line of the first row that cannot be used."""
    lines: dict[str, int] = {}
    cases: list[Case] = []
    for number, row in read_rows(path):
        case = validated(path, number, row, Case)
        if case.id in lines:
            raise SuiteError(
                path,
                number,
                f"repeats the prompt of line {lines[case.id]} (id {case.id}); drop one",
            )
        if len(cases) == MAX_CASES:
            raise SuiteError(path, number, f"more than {MAX_CASES:,} cases; split the suite")
        lines[case.id] = number
        cases.append(case)
    suite = Suite(Path(path), tuple(cases), lines)
    if not suite.cases:
        raise SuiteError(path, None, "has no cases; an empty suite would pass without a test")
    return suite


def read_suite(path: Path) -> StoredSuite:
    """Read a suite with its provenance and tokens, if it has any.

    An interrupted write is finished first. Raises StoreError and SuiteError, also for a row that
    has changed since it was written.
    """
    finish(suite_record(path), suite_files(path))
    stored = _read(path, load_tokens)
    check_rows(path, stored.suite.rows, stored.tokens, stored.provenance)
    return stored


def list_suite(path: Path) -> StoredSuite:
    """Read a suite for a listing, which measures nothing and writes nothing.

    Its continuations are read on demand; rows are not compared with the provenance.
    Raises SuiteError.
    """
    return _read(path, ListedTokens)


def suite_without_cases(path: Path) -> StoredSuite:
    """Read the suite of a search that kept no case: its provenance alone.

    Only the session that searched may use it; for all others it is an empty suite, which is
    refused. Raises SuiteError.
    """
    provenance = load_provenance(sidecar_path(path, PROVENANCE))
    return StoredSuite(Suite(path, (), {}), provenance, {})


def write_suite(path: AnyPath, cases: Iterable[Case]) -> None:
    """Write a suite, cases and control rows, sorted by id: old or new, never half.

    `load_suite` reads what it writes. Raises SuiteError for no cases, one prompt twice or a row
    over the limits; StoreError.
    """
    cases = list(cases)
    _check_number(path, len(cases))
    if all(case.is_control for case in cases):
        raise SuiteError(path, None, "no cases to write, only controls; add a row that is tested")
    write_rows(path, [_suite_row(case) for case in cases])


def write_stored(
    path: Path,
    rows: Iterable[Case],
    tokens: Iterable[StoredTokens],
    provenance: Provenance,
    *,
    instead_of: StoredSuite | None = None,
    is_new: bool = False,
) -> None:
    """Write a suite, its tokens and its provenance: at any moment all are old, or all are new.

    An unchanged row of `instead_of`, the suite as it was read before, keeps its text byte for byte,
    even if it was written by hand. Raises StoreError and SuiteError, also if the file has changed
    since it was read or, with `is_new`, if another suite exists by now.
    """
    rows, tokens = list(rows), list(tokens)
    stored = {entry.id: entry for entry in tokens}
    lines = {row.id: _suite_line(row) for row in rows}
    tokens_path, provenance_path, _ = suite_files(path)
    by_id = sorted(rows, key=lambda row: row.id)
    digests = {row.id: row_digests(row, stored.get(row.id)) for row in by_id}
    made = provenance.model_copy(update={"rows": digests, "num_rows": None})
    files = {
        tokens_path: rows_data(tokens_path, [entry.model_dump(mode="json") for entry in tokens]),
        provenance_path: document_data(provenance_path, made),
    }
    with alone_with(suite_record(path), suite_files(path)) as is_alone:
        if instead_of is not None:
            lines |= _kept_texts(path, lines, instead_of)
        data = {**files, path: _lines_data(path, lines)}
        if is_new and path.exists():
            _check_same(path, data)
        replace_together(data, suite_record(path), is_alone=is_alone)


def check_same_pair(
    stored: StoredSuite, provenance: Provenance, *, relation: str, if_other: str
) -> None:
    """Refuse a suite whose rows were not measured on the pair of `provenance`.

    `relation` is how the suite relates to its own pair, in words; `if_other` is the next step.
    Raises SuiteError.
    """
    if stored.provenance is None:  # nothing was measured yet
        return
    if changed := pair_changes(stored.provenance, provenance):
        raise SuiteError(
            stored.suite.path,
            None,
            f"{relation} another pair: {'; '.join(changed)}; {if_other}",
        )


def faults_of(path: Path) -> list[SuiteError]:
    """Return the faults of a suite and of the files beside it; none if all can be read.

    A fault of a row names its line. Faults that only show once every row can be read, such as a
    suite that was cut off between two rows, are looked for last.
    """
    return list(_row_by_row(path)) or list(_as_a_whole(path))


def suites_below(folder: Path) -> list[Path]:
    """Return the suites in a folder and below it, without hidden ones."""
    found = ((path, path.relative_to(folder).parts) for path in folder.rglob(f"*{SUITE_SUFFIX}"))
    return sorted(path for path, parts in found if not any(part.startswith(".") for part in parts))


def _read(path: Path, tokens_in: Callable[[Path], Mapping[str, StoredTokens]]) -> StoredSuite:
    tokens = sidecar_path(path, TOKENS)
    return StoredSuite(
        load_suite(path),
        provenance_beside(path),
        tokens_in(tokens) if os.path.lexists(tokens) else {},
    )


def _check_same(path: Path, data: Mapping[Path, bytes]) -> None:
    """Refuse a suite of other content: the same may be what a killed run of this command wrote."""
    if any(not file.exists() or file.read_bytes() != data[file] for file in data):
        raise SuiteError(
            path, None, "another command has written it, so it was not overwritten; start again"
        )


def _kept_texts(
    path: Path, lines: Mapping[str, bytes], instead_of: StoredSuite
) -> dict[str, bytes]:
    """Return the lines of the file whose rows do not change. Raises SuiteError."""
    now = _read(path, load_tokens)
    if now != replace(instead_of, tokens=dict(instead_of.tokens)):
        raise SuiteError(
            path, None, "has changed since it was read, so it was not overwritten; start again"
        )
    texts = _texts(now.suite)
    return {id_: text for id_, (line, text) in texts.items() if lines.get(id_) == line}


def _texts(suite: Suite) -> dict[str, tuple[bytes, bytes]]:
    """Return, by id, each row as we would write it and as it is in the file."""
    lines = suite.path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    return {row.id: (_suite_line(row), lines[suite.lines[row.id] - 1]) for row in suite.rows}


def _suite_line(case: Case) -> bytes:
    """Return a case as `write_suite` writes it: one line, without its end."""
    return strict_dumps(_suite_row(case)).encode("utf-8")


def _suite_row(case: Case) -> dict[str, Any]:
    keys = Case.model_fields  # a case of a report has more
    return {key: value for key, value in case.to_row().items() if key in keys}


def _lines_data(path: AnyPath, lines: Mapping[str, bytes]) -> bytes:
    """Return a suite of given lines, by id, sorted by it. Raises SuiteError."""
    _check_number(path, len(lines))
    return within_limits(path, b"".join(lines[id_] + b"\n" for id_ in sorted(lines)))


def _check_number(path: AnyPath, count: int) -> None:
    if not count:
        raise SuiteError(path, None, "no cases to write; an empty suite would pass without a test")
    if count > MAX_CASES:
        raise SuiteError(path, None, f"{count:,} cases, over {MAX_CASES:,}; split the suite")


def _row_by_row(path: Path) -> Iterator[SuiteError]:
    if not is_suite(path):
        yield SuiteError(path, None, f"is not a suite; the name of a suite ends in {SUITE_SUFFIX}")
        return
    yield from _row_faults(path, Case)
    tokens, provenance, _ = suite_files(path)
    if os.path.lexists(tokens):
        yield from _row_faults(tokens, StoredTokens)
    documents: dict[Path, Callable[[Path], object]] = {
        provenance: load_provenance,
        sidecar_path(path, REFERENCE): load_record,
    }
    for document, load in documents.items():
        if os.path.lexists(document):
            try:
                load(document)
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
                yield SuiteError(path, number, f"repeats line {lines[id_]} (id {id_}); drop one")
    except SuiteError as fault:
        yield fault


def _as_a_whole(path: Path) -> Iterator[SuiteError]:
    try:
        read_suite(path)
    except SuiteError as fault:
        yield fault
