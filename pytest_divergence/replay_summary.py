"""What a replay adds to the end of a session: how its cases went, and what stayed undecided.

Reads what items left on their reports (`pytest_divergence.measuring.note`); measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

NUM_SHOWN = 3
"""Failed cases in a summary that was not asked for more."""


def case_lines(reports: Sequence[pytest.TestReport], verbosity: int = 0) -> list[str]:
    """How many stored cases were replayed, and how they went; other items are no cases.

    With a `verbosity` below 0 that is all; 0 shows the three failed cases that are furthest over
    their bounds, 1 all of them.
    """
    cases = {
        report.nodeid: left
        for report in reports
        if (left := _left(report)).get("divergence_kind") == "case"
    }
    counts = Counter(left["divergence_verdict"] for left in cases.values())
    if not counts:
        return []
    words = {
        "passed": "within the bound",
        "failed": "over it" if counts["passed"] else "over the bound",
        "error": "not measured",
    }
    parts = [f"{counts[verdict]} {word}" for verdict, word in words.items() if counts[verdict]]
    total = sum(counts.values())
    first = f"{total} stored case{'s' if total > 1 else ''} replayed: {', '.join(parts)}."
    if verbosity < 0:
        return [f"divergence: {first}"]
    return [first, *_failed_lines(cases, None if verbosity else NUM_SHOWN)]


def _failed_lines(cases: Mapping[str, dict[str, Any]], limit: int | None) -> Iterator[str]:
    """The failed cases with their values, the furthest over its bound first."""
    from pytest_divergence.reports.case_lines import comparison

    failed = [
        (left["divergence_kl"], left["divergence_bound"], nodeid, left)
        for nodeid, left in cases.items()
        if left["divergence_verdict"] == "failed"
    ]
    failed.sort(key=lambda one: (-one[0] / one[1], one[2]))
    for kl, bound, nodeid, left in failed[:limit]:
        line = comparison(kl, bound, left["divergence_metric"], left["divergence_unit"])
        yield f"  {nodeid.rpartition('::')[2]:<35} {line}"
    if limit is not None and len(failed) > limit:
        yield f"  {len(failed) - limit} more with -v"


def inconclusive_lines(reports: Sequence[pytest.TestReport]) -> list[str]:
    """What each suite's aggregate could not decide."""
    undecided = {
        report.nodeid: left["divergence_aggregate"]
        for report in reports
        if "divergence_aggregate" in (left := _left(report))
        and left["divergence_verdict"] == "inconclusive"
    }
    return [f"{nodeid} {sentence}" for nodeid, sentence in undecided.items()]


def other_reference_lines(reports: Sequence[pytest.TestReport]) -> list[str]:
    """The suites that were made with another reference than this session's."""
    made_with = {
        report.nodeid.partition("::")[0]: left["divergence_other_reference"]
        for report in reports
        if "divergence_other_reference" in (left := _left(report))
    }
    return [
        f"{suite}: its limits were measured against another reference, {name}"
        for suite, name in made_with.items()
    ]


def _left(report: pytest.TestReport) -> dict[str, Any]:
    return {name: value for name, value in report.user_properties if isinstance(name, str)}
