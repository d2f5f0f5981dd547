"""Chosen cases of a search become part of a committed suite, with all that a replay needs.

Knows what goes along: continuations, behaviours, control rows, provenance. Measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import Case, is_same_quantity
from pytest_divergence.core.errors import SettingsError, StoreError, SuiteError
from pytest_divergence.core.file_names import SUITE_SUFFIX, is_suite, suite_files, suite_record
from pytest_divergence.core.joint_writes import finish
from pytest_divergence.core.provenance import Provenance
from pytest_divergence.core.regular_files import make_folders
from pytest_divergence.core.report import load_report, report_path, suite_of
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.suites import (
    NUM_CONTROL_ROWS,
    StoredSuite,
    check_same_pair,
    read_suite,
    write_stored,
)
from pytest_divergence.core.verdicts import approved_limit


@dataclass(frozen=True)
class Choice:
    """What to promote; by default every case that was measured, with the behaviours they show."""

    ids: Sequence[str] = ()
    """Cases, each by its id or the start of it."""
    behaviours: Sequence[str] = ()
    """Behaviours and the cases that show them, each by its id or the start of it."""
    is_all: bool = False
    """Every case and every behaviour."""


@dataclass(frozen=True)
class Promoted:
    """What was written."""

    written: tuple[Case, ...]
    kept: tuple[str, ...]
    """Ids of chosen cases that the target had already, and keeps as they were."""
    num_controls: int
    """All of the target's."""
    behaviours: tuple[Behaviour, ...]
    left_behind: tuple[Behaviour, ...]
    """Confirmed behaviours of the source that were not chosen."""
    provenance: Provenance


def promote(
    source: Path,
    target: Path,
    choice: Choice | None = None,
    *,
    root_of: Callable[[], Path] = Path.cwd,
    is_adding: bool = False,
    is_forced: bool = False,
) -> Promoted:
    """Copy the chosen cases of a suite, or of a report's run, into the suite `target`.

    `root_of` tells the project of a run whose report lies elsewhere. `is_adding` merges into a
    target that is there; with `is_forced`, rows that both have are replaced. Raises SettingsError,
    SuiteError or StoreError, and then nothing has changed.
    """
    before = _target(target, is_adding=is_adding)
    path, found = _source(source, root_of)
    provenance = found.provenance
    if provenance is None:
        raise SuiteError(path, None, "has no provenance beside it; promote what a search has found")
    if before is not None:
        check_same_pair(
            before,
            provenance,
            relation="belongs to",
            if_other="name another file, or bring this one up to date first with "
            f"{setting('update')}",
        )
        _check_same_quantity(target, before, path, found)
    cases, behaviours = _chosen(path, found, provenance, choice or Choice())
    merged = _Merged(before)
    kept = [] if is_forced else [case.id for case in cases if merged.has_case(case.id)]
    written = [_approved(case, provenance) for case in cases if case.id not in kept]
    merged.add(written, found)
    merged.add(_controls(found, merged, is_forced=is_forced), found)
    merged_provenance = merged.with_behaviours(provenance, behaviours, is_forced=is_forced)
    _make_folder(target)
    write_stored(
        target,
        merged.rows.values(),
        merged.tokens.values(),
        merged_provenance,
        instead_of=before,
    )
    return Promoted(
        written=tuple(written),
        kept=tuple(kept),
        num_controls=sum(row.is_control for row in merged.rows.values()),
        behaviours=tuple(behaviours),
        left_behind=tuple(
            one for one in provenance.behaviours if one.confirmed and one not in behaviours
        ),
        provenance=merged_provenance,
    )


class _Merged:
    """The target's rows by id, and what belongs to them, as they will be."""

    def __init__(self, before: StoredSuite | None) -> None:
        self.rows = {row.id: row for row in before.suite.rows} if before is not None else {}
        self.tokens = dict(before.tokens) if before is not None else {}
        self.provenance = before.provenance if before is not None else None

    def has_case(self, id_: str) -> bool:
        return id_ in self.rows and not self.rows[id_].is_control

    def add(self, rows: Iterable[Case], found: StoredSuite) -> None:
        for row in rows:
            self.rows[row.id] = row
            self.tokens[row.id] = found.tokens[row.id]

    def with_behaviours(
        self, provenance: Provenance, behaviours: Sequence[Behaviour], *, is_forced: bool
    ) -> Provenance:
        """The target's own provenance, else the source's, with the behaviours of both."""
        base = self.provenance or provenance
        own = {one.id: one for one in self.provenance.behaviours} if self.provenance else {}
        new = {one.id: one for one in behaviours}
        both = {**own, **new} if is_forced else {**new, **own}
        return base.model_copy(update={"behaviours": list(both.values())})


def _make_folder(target: Path) -> None:
    try:
        make_folders(target.parent)
    except OSError as error:
        raise StoreError(
            f"cannot make the folder {target.parent}: {error.strerror}; name a suite elsewhere"
        ) from error


def _target(target: Path, *, is_adding: bool) -> StoredSuite | None:
    """What is there already."""
    if not is_suite(target) or target.name == SUITE_SUFFIX:
        raise SettingsError(
            f"{target} is no name of a suite: it must end in {SUITE_SUFFIX}, or pytest would not "
            f"collect it; for instance {target.with_name(target.name.split('.')[0] or 'release')}"
            f"{SUITE_SUFFIX}"
        )
    if not target.exists():  # a first promotion that was killed is begun anew
        return None
    finish(suite_record(target), suite_files(target))
    if not is_adding:
        raise SettingsError(
            f"{target} is there already; add to it with --add, or name another file"
        )
    return read_suite(target)


def _source(source: Path, root_of: Callable[[], Path]) -> tuple[Path, StoredSuite]:
    """The suite that is given, or the one that the run of a report has written."""
    path = report_path(source)
    if path is None:
        return source, read_suite(source)
    report = load_report(path)
    if not report.has_cases:
        raise SettingsError(f"run {report.run.id} kept no case; there is nothing to promote")
    suite = suite_of(report, path, root_of)
    found = read_suite(suite)
    values = {case.id: case.kl for case in report.cases if not case.off_distribution}
    if values != {case.id: case.kl for case in found.suite.cases}:
        raise SettingsError(
            f"{suite} does not hold the cases of run {report.run.id}: another search of this pair "
            "has written it since; promote the suite itself"
        )
    return suite, found


def _check_same_quantity(target: Path, before: StoredSuite, path: Path, found: StoredSuite) -> None:
    """Limits and control rows of one suite are judged together."""
    ours, theirs = before.measured, found.measured
    if ours is None or theirs is None or is_same_quantity(ours.metric, theirs.metric):
        return
    raise SuiteError(
        target,
        None,
        f"is measured in {ours.metric} ({ours.unit}), and {path} in {theirs.metric} "
        f"({theirs.unit}); name another file, or measure one of them in the other's metric with "
        f"{setting('update')}",
    )


def _chosen(
    path: Path, found: StoredSuite, provenance: Provenance, choice: Choice
) -> tuple[list[Case], list[Behaviour]]:
    """The cases to copy, and the behaviours that go with them."""
    known = {one.id: one for one in provenance.behaviours}
    named = {_resolved(one, list(known), "behaviour", path) for one in choice.behaviours}
    by_id = {case.id: case for case in found.suite.cases}
    ids = {_resolved(one, list(by_id), "case", path) for one in choice.ids}
    is_narrow = bool(choice.ids or choice.behaviours) and not choice.is_all
    cases = [
        case
        for case in found.suite.cases
        if (case.id in ids or any(_shows(case, known[one]) for one in named))
        or (not is_narrow and case.kl is not None)
    ]
    _check_complete(path, found, cases)
    behaviours = [
        one
        for one in provenance.behaviours
        if choice.is_all or one.id in named or any(_shows(case, one) for case in cases)
    ]
    return cases, behaviours


def _check_complete(path: Path, found: StoredSuite, cases: Sequence[Case]) -> None:
    if not cases:
        raise SuiteError(
            path,
            None,
            "no case was chosen, and a suite needs one: name some with --id, or all with --all",
        )
    for case in cases:
        missing = "kl" if case.kl is None else "" if case.id in found.tokens else "continuations"
        if missing:
            raise SuiteError(
                path,
                found.suite.lines[case.id],
                f"case {case.id} has no {missing}, so it was never measured; fill it in with "
                f"{setting('fill')}, or choose others with --id",
            )


def _controls(found: StoredSuite, merged: _Merged, *, is_forced: bool) -> list[Case]:
    """Control rows of the source that the target gets: as many as it has room for."""
    usable = [row for row in found.suite.controls if row.kl is not None and row.id in found.tokens]
    there = [row for row in usable if row.id in merged.rows]
    new = [row for row in usable if row.id not in merged.rows]
    room = NUM_CONTROL_ROWS - sum(row.is_control for row in merged.rows.values())
    replaced = [row for row in there if is_forced and not merged.has_case(row.id)]
    return replaced + new[: max(0, room)]


def _approved(case: Case, provenance: Provenance) -> Case:
    """The case with the limit that its own value gives it."""
    assert case.kl is not None  # `_check_complete` has seen to it
    floor = provenance.noise_floor
    limit = approved_limit(case.kl.value, floor.of(case.kl.metric) if floor is not None else None)
    return case.with_changes(max_kl=limit)


def _shows(case: Case, behaviour: Behaviour) -> bool:
    return case.behaviour == behaviour.id or case.id in behaviour.example_case_ids


def _resolved(given: str, known: Sequence[str], what: str, path: Path) -> str:
    """The one id that `given` is, or begins."""
    found = [given] if given in known else [one for one in known if one.startswith(given)]
    if len(found) == 1:
        return found[0]
    if found:
        raise SuiteError(
            path, None, f"{safe_line(given)} begins {len(found)} {what}s: {', '.join(found)}"
        )
    there = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
    raise SuiteError(
        path, None, f"no {what} begins with {safe_line(given)}; there are {there or 'none'}"
    )
