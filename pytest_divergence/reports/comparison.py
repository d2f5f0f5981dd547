"""Differences between two suites or runs, in a terminal: plain text, 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from pytest_divergence.core.cases import quantity
from pytest_divergence.core.comparison import (
    BehaviourDifference,
    BehaviourState,
    CaseDifference,
    Differences,
    ValueDifference,
)
from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import printable_lines, visible
from pytest_divergence.reports.text_blocks import WIDTH, columns, quoted
from pytest_divergence.reports.wording import compared, nats

MARKS = {"added": "+", "removed": "-", "changed": "~"}


def difference_lines(differences: Differences, before: str, after: str) -> list[str]:
    """All differences between `before` and `after`, the names of the two sides."""
    if differences.is_empty:
        return [f"no difference between {visible(before)} and {visible(after)}"]
    lines = [f"--- {visible(before)}", f"+++ {visible(after)}"]
    for section in (
        [line for value in differences.values for line in _value(value)],
        [line for behaviour in differences.behaviours for line in _behaviour(behaviour)],
        list(_cases(differences.cases, quantity(differences.metric or BUILT_IN_METRICS[0]))),
        list(_controls(differences)),
    ):
        lines += ["", *section] if section else []
    return printable_lines(lines)


def _value(value: ValueDifference) -> list[str]:
    return _broken(f"{value.name}: {_moved(value.before, value.after)}")


def _behaviour(behaviour: BehaviourDifference) -> Iterator[str]:
    yield f"{MARKS[behaviour.change]} behaviour {quoted(behaviour.name, WIDTH - 12)}"
    yield f"    {behaviour.id}"
    yield "    " + " -> ".join(
        _standing(state) for state in (behaviour.before, behaviour.after) if state
    )


def _standing(state: BehaviourState) -> str:
    words = "confirmed" if state.confirmed else "unconfirmed"
    return words + (", accepted" if state.accepted else "")


def _cases(cases: Sequence[CaseDifference], quantity: str) -> Iterator[str]:
    counts = [
        f"{sum(case.change == change for case in cases)} {change}"
        for change in ("changed", "added", "removed")
        if any(case.change == change for case in cases)
    ]
    if cases:
        yield f"{number_of(len(cases), 'case')}: {', '.join(counts)}"
    for case in cases:
        yield from _case(case, quantity)


def _case(case: CaseDifference, quantity: str) -> Iterator[str]:
    yield f"{MARKS[case.change]} {case.id}"
    yield f"    {quoted(case.prompt, WIDTH - 4)}"
    facts: dict[str, str] = {}
    for name in ("kl", "max_kl", "verdict", "behaviour"):
        old, new = (getattr(state, name, None) for state in (case.before, case.after))
        if old != new:
            alone = new if case.before is None else old
            facts[name] = _moved(old, new) if case.change == "changed" else _shown(alone)
    if case.log_ratio and "kl" in facts:
        facts["kl"] += f" (x {math.exp(case.log_ratio):.3g})"
    words = {"kl": visible(quantity)}
    yield from _facts(f"{words.get(name, name)} {fact}" for name, fact in facts.items())


def _facts(facts: Iterable[str]) -> Iterator[str]:
    """Facts separated by commas, as many to a line as fit."""
    line = ""
    for fact in facts:
        longer = f"{line}, {fact}" if line else f"    {fact}"
        if line and columns(longer) > WIDTH:
            yield f"{line},"
            longer = f"    {fact}"
        line = longer
    if line:
        yield from _broken(line)


def _controls(differences: Differences) -> Iterator[str]:
    controls = differences.controls
    if controls is not None:
        yield (
            f"control rows: {controls.before} -> {controls.after}, {controls.changed} of those in "
            "both changed"
        )


def _moved(old: float | str | None, new: float | str | None) -> str:
    if isinstance(old, float) and isinstance(new, float):
        return " -> ".join(compared(old, new))
    return f"{_shown(old)} -> {_shown(new)}"


def _broken(line: str) -> list[str]:
    """A line, broken at its arrow if it is too long."""
    if columns(line) <= WIDTH:
        return [line]
    start, arrow, end = line.rpartition(" -> ")
    return [start, f"      ->{arrow[3:]}{end}"] if arrow else [line]


def _shown(value: float | str | None) -> str:
    if value is None:
        return "none"
    return nats(value) if isinstance(value, float) else visible(value)
