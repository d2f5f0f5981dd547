"""Chosen cases of a search become part of a committed suite, with all that a replay needs.

Copies continuations, behaviours, control rows and provenance too. Measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_divergence.core.behaviours import Behaviour, with_accepted
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
    """Cases and behaviours to promote; by default all measured cases and their behaviours."""

    ids: Sequence[str] = ()
    """Cases, each by its id or the start of it."""
    behaviours: Sequence[str] = ()
    """Behaviours and the cases that show them, each by its id or the start of it."""
    is_all: bool = False
    """Whether to promote every case and every behaviour."""


@dataclass(frozen=True)
class Promoted:
    """Result of a promotion."""

    written: tuple[Case, ...]
    kept: tuple[str, ...]
    """Ids of chosen cases that the target had already, and keeps as they were."""
    num_controls: int
    """Control rows of the target, old and new."""
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

    `root_of` returns the project of a run whose report lies elsewhere. `is_adding` merges into a
    target that is there; with `is_forced`, rows that both have are replaced. Raises SettingsError,
    SuiteError or StoreError, and then nothing has changed.
    """
    before = existing_suite(target, is_adding=is_adding)
    path, found = _source(source, root_of)
    provenance = found.provenance
    if provenance is None:
        raise SuiteError(path, None, "has no provenance file; promote the suite of a search")
    if before is not None:
        check_same_pair(
            before,
            provenance,
            relation="belongs to",
            if_other=f"name another file, or update this one first with {setting('update')}",
        )
        _check_same_quantity(target, before, path, found)
    cases, behaviours = _chosen(path, found, provenance, choice or Choice())
    merged = _Merged(before)
    kept = [] if is_forced else [case.id for case in cases if merged.has_case(case.id)]
    written = [_approved(case, provenance) for case in cases if case.id not in kept]
    merged.add(written, found)
    merged.add(_controls(found, merged, is_forced=is_forced), found)
    merged_provenance = merged.with_behaviours(provenance, behaviours, is_forced=is_forced)
    make_folder_of(target)
    write_stored(
        target,
        merged.rows.values(),
        merged.tokens.values(),
        merged_provenance,
        instead_of=before,
        is_new=before is None,
    )
    return Promoted(
        written=tuple(written),
        kept=tuple(kept),
        num_controls=sum(row.is_control for row in merged.rows.values()),
        behaviours=tuple(behaviours),
        left_behind=tuple(
            behaviour
            for behaviour in provenance.behaviours
            if behaviour.confirmed and behaviour not in behaviours
        ),
        provenance=merged_provenance,
    )


class _Merged:
    """Rows of the target after the promotion, by id, with their tokens and provenance."""

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
        """Return the target's own provenance, else the source's, with the behaviours of both.

        What the target accepts stays accepted, under whatever words it comes again.
        """
        base = self.provenance or provenance
        known = self.provenance.behaviours if self.provenance else ()
        old = {behaviour.id: behaviour for behaviour in known}
        new = {behaviour.id: behaviour for behaviour in behaviours}
        both = {**old, **new} if is_forced else {**new, **old}
        accepted = [behaviour for behaviour in known if behaviour.accepted]
        merged = with_accepted(list(both.values()), accepted)
        return base.model_copy(update={"behaviours": merged})


def make_folder_of(target: Path) -> None:
    """Make the folder of a file that is about to be written. Raises StoreError."""
    try:
        make_folders(target.parent)
    except OSError as error:
        raise StoreError(
            f"cannot make the folder {target.parent}: {error.strerror}; name a suite elsewhere"
        ) from error


def existing_suite(target: Path, *, is_adding: bool) -> StoredSuite | None:
    """Return the suite that exists at `target`, if any, once its name is checked.

    Raises SettingsError for a wrong name, or without `is_adding` for a suite that exists.
    """
    if not is_suite(target) or target.name == SUITE_SUFFIX:
        raise SettingsError(
            f"{target} cannot name a suite: the name must end in {SUITE_SUFFIX}, or pytest does "
            "not collect it; for example "
            f"{target.with_name(target.name.split('.')[0] or 'release')}{SUITE_SUFFIX}"
        )
    if not target.exists():  # a first promotion that was killed starts over
        return None
    finish(suite_record(target), suite_files(target))
    if not is_adding:
        raise SettingsError(f"{target} exists already; add to it with --add, or name another file")
    return read_suite(target)


def _source(source: Path, root_of: Callable[[], Path]) -> tuple[Path, StoredSuite]:
    """Return the suite that is given, or the one that the run of a report wrote."""
    path = report_path(source)
    if path is None:
        return source, read_suite(source)
    report = load_report(path)
    if not report.has_cases:
        raise SettingsError(f"run {report.run.id} kept no cases, so there is nothing to promote")
    suite = suite_of(report, path, root_of)
    found = read_suite(suite)
    values = {case.id: case.kl for case in report.cases if not case.off_distribution}
    if values != {case.id: case.kl for case in found.suite.cases}:
        raise SettingsError(
            f"{suite} no longer holds the cases of run {report.run.id}: a later search of this "
            "pair has replaced it; promote the suite itself"
        )
    return suite, found


def _check_same_quantity(target: Path, before: StoredSuite, path: Path, found: StoredSuite) -> None:
    """Refuse metrics that cannot be compared: limits and controls are judged together."""
    old, new = before.measured, found.measured
    if old is None or new is None or is_same_quantity(old.metric, new.metric):
        return
    raise SuiteError(
        target,
        None,
        f"is measured in {old.metric} ({old.unit}), but {path} in {new.metric} "
        f"({new.unit}); name another file, or measure one of them in the other's metric with "
        f"{setting('update')}",
    )


def _chosen(
    path: Path, found: StoredSuite, provenance: Provenance, choice: Choice
) -> tuple[list[Case], list[Behaviour]]:
    """Return the cases to copy and the behaviours to copy with them."""
    known = {behaviour.id: behaviour for behaviour in provenance.behaviours}
    named = {_resolved(given, list(known), "behaviour", path) for given in choice.behaviours}
    by_id = {case.id: case for case in found.suite.cases}
    ids = {_resolved(given, list(by_id), "case", path) for given in choice.ids}
    is_narrow = bool(choice.ids or choice.behaviours) and not choice.is_all
    cases = [
        case
        for case in found.suite.cases
        if (case.id in ids or any(shows(case, known[id_]) for id_ in named))
        or (not is_narrow and case.kl is not None)
    ]
    _check_complete(path, found, cases)
    behaviours = [
        behaviour
        for behaviour in provenance.behaviours
        if choice.is_all or behaviour.id in named or any(shows(case, behaviour) for case in cases)
    ]
    return cases, behaviours


def _check_complete(path: Path, found: StoredSuite, cases: Sequence[Case]) -> None:
    if not cases:
        raise SuiteError(
            path,
            None,
            "no case was chosen, but a suite needs one; choose some with --id, or all with --all",
        )
    for case in cases:
        missing = "kl" if case.kl is None else "" if case.id in found.tokens else "continuations"
        if missing:
            raise SuiteError(
                path,
                found.suite.lines[case.id],
                f"case {case.id} has no {missing}, so it was never measured; measure it with "
                f"{setting('fill')}, or choose other cases with --id",
            )


def _controls(found: StoredSuite, merged: _Merged, *, is_forced: bool) -> list[Case]:
    """Return the control rows of the source that the target has room for."""
    usable = [row for row in found.suite.controls if row.kl is not None and row.id in found.tokens]
    there = [row for row in usable if row.id in merged.rows]
    new = [row for row in usable if row.id not in merged.rows]
    room = NUM_CONTROL_ROWS - sum(row.is_control for row in merged.rows.values())
    replaced = [row for row in there if is_forced and not merged.has_case(row.id)]
    return replaced + new[: max(0, room)]


def _approved(case: Case, provenance: Provenance) -> Case:
    """Return the case with the limit that its own value gives it."""
    assert case.kl is not None  # checked by `_check_complete`
    floor = provenance.noise_floor
    limit = approved_limit(case.kl.value, floor.of(case.kl.metric) if floor is not None else None)
    return case.with_changes(max_kl=limit)


def shows(case: Case, behaviour: Behaviour) -> bool:
    """Whether a case shows a behaviour, and is promoted with it."""
    return case.behaviour == behaviour.id or case.id in behaviour.example_case_ids


def _resolved(given: str, known: Sequence[str], what: str, path: Path) -> str:
    """Return the one id that `given` is, or is the start of."""
    found = [given] if given in known else [id_ for id_ in known if id_.startswith(given)]
    if len(found) == 1:
        return found[0]
    if found:
        raise SuiteError(
            path, None, f"{safe_line(given)} matches {len(found)} {what}s: {', '.join(found)}"
        )
    there = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
    raise SuiteError(
        path, None, f"no {what} begins with {safe_line(given)}; there are {there or 'none'}"
    )
