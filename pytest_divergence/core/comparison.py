"""Differences between two suites, or two runs: cases, behaviours, limits, models.

Knows plain values; does not know how they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import Case, Count, Number, Record, is_same_quantity
from pytest_divergence.core.provenance import Bound, TypicalShift
from pytest_divergence.core.report import Report, ReportCase, load_report, report_path
from pytest_divergence.core.suites import StoredSuite, read_suite
from pytest_divergence.core.verdicts import ARITHMETIC_FLOOR, judge

Change = Literal["added", "removed", "changed"]


class CaseState(Record):
    """One case on one side."""

    kl: Number | None = None
    max_kl: Number | None = None
    """Its own limit, else that of its suite or run."""
    verdict: str | None = None
    """Verdict of the run, else of the stored value against the limit."""
    behaviour: str | None = None


class CaseDifference(Record):
    """One case that differs between the sides; None on a side that lacks it."""

    id: str
    change: Change
    prompt: str
    before: CaseState | None
    after: CaseState | None
    log_ratio: Number | None = None
    """ln of KL after over KL before, where both are known and of one quantity."""


class BehaviourState(Record):
    """One behaviour on one side."""

    confirmed: bool
    accepted: bool


class BehaviourDifference(Record):
    """One behaviour that differs between the sides; None on a side that lacks it."""

    id: str
    change: Change
    name: str
    before: BehaviourState | None
    after: BehaviourState | None


class ValueDifference(Record):
    """One property of the whole file that differs, in words or as a number."""

    name: str
    before: Number | str | None
    after: Number | str | None


class ControlsDifference(Record):
    """Control rows: how many each side has, and how many of the shared ones changed."""

    before: Count
    after: Count
    changed: Count


class Differences(Record):
    """All differences, the cases that changed most first."""

    values: list[ValueDifference]
    cases: list[CaseDifference]
    behaviours: list[BehaviourDifference]
    controls: ControlsDifference | None
    """Changes of control rows; None if there are none."""
    metric: str | None = None
    """Metric of the values after, or of those before if there are no others."""

    @property
    def is_empty(self) -> bool:
        """Whether both sides say the same."""
        return not (self.values or self.cases or self.behaviours or self.controls)


@dataclass(frozen=True)
class Side:
    """Values of one file that are compared."""

    metric: str | None
    """Metric of the measurements; None without any."""
    reference: str
    candidate: str
    bound: Bound | None
    typical_shift: TypicalShift | None
    cases: Mapping[str, tuple[str, CaseState]]
    """Prompt and state by id."""
    controls: Mapping[str, CaseState]
    behaviours: Mapping[str, Behaviour]


def compare(before: Side, after: Side) -> Differences:
    """Return the differences between two sides."""
    return Differences(
        values=list(_values(before, after)),
        cases=_cases(before, after),
        behaviours=list(_behaviours(before, after)),
        controls=_controls(before, after),
        metric=after.metric or before.metric,
    )


def read_side(path: Path) -> Side:
    """Read a suite, or the report of a run. Raises SettingsError, SuiteError."""
    report = report_path(path)
    return side_of_suite(read_suite(path)) if report is None else side_of_run(load_report(report))


def side_of_suite(stored: StoredSuite) -> Side:
    """Return the values of a suite that are compared."""
    provenance = stored.provenance
    bound = provenance.bound if provenance is not None else None
    return Side(
        reference=str(provenance.reference) if provenance is not None else "unknown",
        candidate=str(provenance.candidate) if provenance is not None else "unknown",
        metric=stored.measured.metric if stored.measured is not None else None,
        bound=bound,
        typical_shift=provenance.typical_shift if provenance is not None else None,
        cases={case.id: (case.text, _state(case, bound)) for case in stored.suite.cases},
        controls={row.id: _state(row, None) for row in stored.suite.controls},
        behaviours=_by_id(provenance.behaviours if provenance is not None else ()),
    )


def side_of_run(report: Report) -> Side:
    """Return the values of a run that are compared."""
    calibration = report.calibration
    shift = calibration.typical_shift
    return Side(
        reference=report.pair.reference,
        candidate=report.pair.candidate,
        metric=next((case.kl.metric for case in report.cases if case.kl is not None), None),
        bound=calibration.bound,
        typical_shift=shift.summary() if shift is not None else None,
        cases={case.id: (case.text, _state(case, calibration.bound)) for case in report.cases},
        controls={},
        behaviours=_by_id(report.behaviours),
    )


def _state(case: Case, bound: Bound | None) -> CaseState:
    limit = case.max_kl if case.max_kl is not None else bound.value if bound is not None else None
    kl = case.kl.value if case.kl is not None else None
    verdict = None
    if isinstance(case, ReportCase):
        verdict = "set apart" if case.off_distribution else case.verdict
    elif kl is not None and limit is not None and not case.is_control:
        verdict = judge(kl, limit)
    return CaseState(kl=kl, max_kl=limit, verdict=verdict, behaviour=case.behaviour)


def _by_id(behaviours: Iterable[Behaviour]) -> dict[str, Behaviour]:
    return {behaviour.id: behaviour for behaviour in behaviours}


def _values(before: Side, after: Side) -> Iterable[ValueDifference]:
    pairs: dict[str, tuple[float | str | None, float | str | None]] = {
        "metric": (before.metric, after.metric) if before.metric and after.metric else (None, None),
        "reference": (before.reference, after.reference),
        "candidate": (before.candidate, after.candidate),
        "bound": (_value(before.bound), _value(after.bound)),
    }
    shifts = (before.typical_shift, after.typical_shift)
    for part in ("mean", "p99", "max"):
        first, second = (getattr(shift, part) if shift is not None else None for shift in shifts)
        pairs[f"typical shift, {part}"] = (first, second)
    for name, (old, new) in pairs.items():
        if old != new:
            yield ValueDifference(name=name, before=old, after=new)


def _value(bound: Bound | None) -> float | None:
    return bound.value if bound is not None else None


def _cases(before: Side, after: Side) -> list[CaseDifference]:
    """Return the largest changes of KL first; then cases on one side only, the largest first."""
    is_comparable = is_same_quantity(before.metric or "", after.metric or "")
    found = []
    for id_ in before.cases.keys() | after.cases.keys():
        (prompt, old), (_, new) = (
            side.cases.get(id_, (other.cases.get(id_, ("",))[0], None))
            for side, other in ((before, after), (after, before))
        )
        if old != new:
            found.append(
                CaseDifference(
                    id=id_,
                    change=_change(old, new),
                    prompt=prompt,
                    before=old,
                    after=new,
                    log_ratio=_log_ratio(old, new) if is_comparable else None,
                )
            )
    return sorted(found, key=_rank)


def _rank(difference: CaseDifference) -> tuple[bool, float, float, str]:
    there = difference.after or difference.before
    kl = there.kl if there is not None and there.kl is not None else 0.0
    moved = abs(difference.log_ratio) if difference.log_ratio is not None else 0.0
    return difference.change != "changed", -moved, -kl, difference.id


def _log_ratio(old: CaseState | None, new: CaseState | None) -> float | None:
    """Return ln(new / old), with values raised to the arithmetic floor: below it they are noise."""
    if old is None or new is None or old.kl is None or new.kl is None:
        return None
    first, second = (max(kl, ARITHMETIC_FLOOR) for kl in (old.kl, new.kl))
    return math.log(second / first)


def _behaviours(before: Side, after: Side) -> Iterable[BehaviourDifference]:
    both = {**before.behaviours, **after.behaviours}
    for id_ in sorted(both):
        old, new = (_standing(side.behaviours.get(id_)) for side in (before, after))
        if old != new:
            yield BehaviourDifference(
                id=id_, change=_change(old, new), name=both[id_].name, before=old, after=new
            )


def _standing(behaviour: Behaviour | None) -> BehaviourState | None:
    if behaviour is None:
        return None
    return BehaviourState(confirmed=behaviour.confirmed, accepted=behaviour.accepted)


def _controls(before: Side, after: Side) -> ControlsDifference | None:
    if before.controls == after.controls:
        return None
    both = before.controls.keys() & after.controls.keys()
    changed = sum(before.controls[id_] != after.controls[id_] for id_ in both)
    return ControlsDifference(
        before=len(before.controls), after=len(after.controls), changed=changed
    )


def _change(before: object, after: object) -> Change:
    if before is None:
        return "added"
    return "removed" if after is None else "changed"
