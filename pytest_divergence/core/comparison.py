"""What differs between two suites, or two runs: cases, behaviours, limits, models.

Knows plain values; does not know how they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import Case, Count, Number, Record
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
    """A run's, else what the stored value and the limit say."""
    behaviour: str | None = None


class CaseDifference(Record):
    """One case that is not the same on both sides; None: it is not there."""

    id: str
    change: Change
    prompt: str
    before: CaseState | None
    after: CaseState | None
    log_ratio: Number | None = None
    """ln of KL after over KL before, where both are known."""


class BehaviourState(Record):
    """One behaviour on one side."""

    confirmed: bool
    accepted: bool


class BehaviourDifference(Record):
    """One behaviour that is not the same on both sides; None: it is not there."""

    id: str
    change: Change
    name: str
    before: BehaviourState | None
    after: BehaviourState | None


class ValueDifference(Record):
    """Something of the whole file that differs, in words or as a number."""

    name: str
    before: Number | str | None
    after: Number | str | None


class ControlsDifference(Record):
    """Control rows: how many are there, and how many of both sides read another value."""

    before: Count
    after: Count
    changed: Count


class Differences(Record):
    """All that differs, the cases that moved most first."""

    values: list[ValueDifference]
    cases: list[CaseDifference]
    behaviours: list[BehaviourDifference]
    controls: ControlsDifference | None
    """None where they are the same."""

    @property
    def is_empty(self) -> bool:
        """Whether both sides say the same."""
        return not (self.values or self.cases or self.behaviours or self.controls)


@dataclass(frozen=True)
class Side:
    """What is compared of one file."""

    metric: str | None
    """In which it was measured; None where nothing was."""
    reference: str
    candidate: str
    bound: Bound | None
    typical_shift: TypicalShift | None
    cases: Mapping[str, tuple[str, CaseState]]
    """Prompt and state by id."""
    controls: Mapping[str, CaseState]
    behaviours: Mapping[str, Behaviour]


def compare(before: Side, after: Side) -> Differences:
    """What differs between two sides."""
    return Differences(
        values=list(_values(before, after)),
        cases=_cases(before, after),
        behaviours=list(_behaviours(before, after)),
        controls=_controls(before, after),
    )


def read_side(path: Path) -> Side:
    """A suite, or the report of a run. Raises SettingsError, SuiteError."""
    report = report_path(path)
    return side_of_suite(read_suite(path)) if report is None else side_of_run(load_report(report))


def side_of_suite(stored: StoredSuite) -> Side:
    """What is compared of a suite."""
    provenance = stored.provenance
    bound = provenance.bound if provenance is not None else None
    return Side(
        reference=str(provenance.reference) if provenance is not None else "unknown",
        candidate=str(provenance.candidate) if provenance is not None else "unknown",
        metric=stored.measured.metric if stored.measured is not None else None,
        bound=bound,
        typical_shift=provenance.typical_shift if provenance is not None else None,
        cases={one.id: (one.text, _state(one, bound)) for one in stored.suite.cases},
        controls={one.id: _state(one, None) for one in stored.suite.controls},
        behaviours=_by_id(provenance.behaviours if provenance is not None else ()),
    )


def side_of_run(report: Report) -> Side:
    """What is compared of a run."""
    calibration = report.calibration
    shift = calibration.typical_shift
    return Side(
        reference=report.pair.reference,
        candidate=report.pair.candidate,
        metric=next((one.kl.metric for one in report.cases if one.kl is not None), None),
        bound=calibration.bound,
        typical_shift=shift.summary() if shift is not None else None,
        cases={one.id: (one.text, _state(one, calibration.bound)) for one in report.cases},
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
    return {one.id: one for one in behaviours}


def _values(before: Side, after: Side) -> Iterable[ValueDifference]:
    pairs: dict[str, tuple[float | str | None, float | str | None]] = {
        "metric": (before.metric, after.metric) if before.metric and after.metric else (None, None),
        "reference": (before.reference, after.reference),
        "candidate": (before.candidate, after.candidate),
        "bound": (_value(before.bound), _value(after.bound)),
    }
    shifts = (before.typical_shift, after.typical_shift)
    for part in ("mean", "p99", "max"):
        first, second = (getattr(one, part) if one is not None else None for one in shifts)
        pairs[f"typical shift, {part}"] = (first, second)
    for name, (old, new) in pairs.items():
        if old != new:
            yield ValueDifference(name=name, before=old, after=new)


def _value(bound: Bound | None) -> float | None:
    return bound.value if bound is not None else None


def _cases(before: Side, after: Side) -> list[CaseDifference]:
    """The largest change of KL first; then those that are on one side only, the largest first."""
    found = []
    for id_ in before.cases.keys() | after.cases.keys():
        (prompt, old), (_, new) = (
            one.cases.get(id_, (other.cases.get(id_, ("",))[0], None))
            for one, other in ((before, after), (after, before))
        )
        if old != new:
            found.append(
                CaseDifference(
                    id=id_,
                    change=_change(old, new),
                    prompt=prompt,
                    before=old,
                    after=new,
                    log_ratio=_log_ratio(old, new),
                )
            )
    return sorted(found, key=_rank)


def _rank(difference: CaseDifference) -> tuple[bool, float, float, str]:
    there = difference.after or difference.before
    kl = there.kl if there is not None and there.kl is not None else 0.0
    moved = abs(difference.log_ratio) if difference.log_ratio is not None else 0.0
    return difference.change != "changed", -moved, -kl, difference.id


def _log_ratio(old: CaseState | None, new: CaseState | None) -> float | None:
    """Values under what arithmetic leaves count as that: their ratio would be noise."""
    if old is None or new is None or old.kl is None or new.kl is None:
        return None
    first, second = (max(one, ARITHMETIC_FLOOR) for one in (old.kl, new.kl))
    return math.log(second / first)


def _behaviours(before: Side, after: Side) -> Iterable[BehaviourDifference]:
    both = {**before.behaviours, **after.behaviours}
    for id_ in sorted(both):
        old, new = (_standing(one.behaviours.get(id_)) for one in (before, after))
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
