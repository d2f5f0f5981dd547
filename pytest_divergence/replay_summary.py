"""What a replay adds to the end of a session: how its cases went, and what stayed undecided.

Reads what items left on their reports (`pytest_divergence.measuring.note`); measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

WORDS = {"passed": "within the bound", "failed": "over it", "error": "not measured"}


def case_lines(reports: Sequence[pytest.TestReport]) -> list[str]:
    """How many stored cases were replayed, and how they went; other items are no cases."""
    verdicts = {
        report.nodeid: left["divergence_verdict"]
        for report in reports
        if (left := _left(report)).get("divergence_kind") == "case"
    }
    counts = Counter(verdicts.values())
    if not counts:
        return []
    parts = [f"{counts[verdict]} {word}" for verdict, word in WORDS.items() if counts[verdict]]
    total = sum(counts.values())
    return [f"{total} stored case{'s' if total > 1 else ''} replayed: {', '.join(parts)}."]


def inconclusive_lines(reports: Sequence[pytest.TestReport]) -> list[str]:
    """What each suite's aggregate could not decide."""
    undecided = {
        report.nodeid: left["divergence_aggregate"]
        for report in reports
        if "divergence_aggregate" in (left := _left(report))
        and left["divergence_verdict"] == "inconclusive"
    }
    return [f"{nodeid} {sentence}" for nodeid, sentence in undecided.items()]


def _left(report: pytest.TestReport) -> dict[str, Any]:
    return {name: value for name, value in report.user_properties if isinstance(name, str)}
