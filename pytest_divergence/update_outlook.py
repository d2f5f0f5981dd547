"""What a rewritten suite fails on, though nothing changes any more.

An update accepts each row's new value; the suite's own bound and the option's limits it leaves as
they are, or a ruined candidate would raise the bar for ordinary prompts by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_divergence.aggregate_items import AGGREGATE_ITEM, SHIFT_ITEM, controls_breadth

if TYPE_CHECKING:
    from pytest_divergence.core.cases import Case
    from pytest_divergence.core.stored import StoredSuite
    from pytest_divergence.session import DivergenceSession


def outlook(session: DivergenceSession, stored: StoredSuite) -> list[str]:
    """Lines on each item of the suite, as it was written, that a replay of it will fail."""
    from pytest_divergence.reports.blocks import sentence
    from pytest_divergence.reports.terminal import WIDTH

    found = [*_aggregate(session, stored), *_shift(session, stored), *_cases(session, stored)]
    if not found:
        return []
    path = session.shown(stored.suite.path)
    first = f"{path} will fail on this pair, for an update leaves these limits as they are:"
    wrapped = (line for one in found for line in sentence(one, width=WIDTH, indent="  "))
    return [first, *wrapped]


def _aggregate(session: DivergenceSession, stored: StoredSuite) -> Iterator[str]:
    from pytest_divergence.reports.aggregates import SEARCH_AGAIN, breadth_sentence

    failing = {"failed"}
    if session.resolved.settings.inconclusive == "fail":
        failing.add("inconclusive")
    found, _ = controls_breadth(
        session, stored, [row.kl for row in stored.suite.controls if row.kl is not None]
    )
    if found is not None and found.verdict in failing:
        yield f"{AGGREGATE_ITEM}: {breadth_sentence(found)}; intended? {SEARCH_AGAIN}"


def _shift(session: DivergenceSession, stored: StoredSuite) -> Iterator[str]:
    from pytest_divergence.reports.aggregates import raise_shift, shift_sentence
    from pytest_divergence.scoring.aggregates import shift

    limit, measured = (
        session.resolved.settings.max_shift,
        [row.kl for row in stored.suite.controls if row.kl is not None],
    )
    if limit is None or not measured:
        return
    found = shift(_values(stored.suite.controls), limit)
    if found.verdict == "failed":
        found = replace(found, metric=measured[0].metric, unit=measured[0].unit)
        yield f"{SHIFT_ITEM}: {shift_sentence(found)}; intended? {raise_shift()}"


def _cases(session: DivergenceSession, stored: StoredSuite) -> Iterator[str]:
    """Rows without a limit of their own have none that could follow their value."""
    from pytest_divergence.core.verdicts import judge
    from pytest_divergence.reports.case_lines import comparison

    bound, whose = session.number_bound, "the option's"
    if bound is None and stored.provenance is not None and stored.provenance.bound is not None:
        bound, whose = stored.provenance.bound.value, "the suite's"
    for case in stored.suite.cases:
        if bound is None or case.max_kl is not None or case.kl is None:
            continue
        if judge(case.kl.value, bound) == "failed":
            numbers = comparison(case.kl.value, bound, case.kl.metric, case.kl.unit)
            yield f"{case.id}: {numbers}, {whose}; intended? give the row a max_kl of its own"


def _values(rows: Sequence[Case]) -> list[float]:
    return [row.kl.value for row in rows if row.kl is not None]
