"""What our items leave on pytest's reports of them, and how it is read back.

Imports nothing heavy: a session that has none of our items looks for it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_divergence.core.file_names import SUITE_SUFFIX

PREFIX = "divergence_"
"""Begins the names of what we leave."""
SKIP_PREFIX = "divergence: "
"""Begins the reason of our own skips, so that the summary can count them."""
NO_CASE = "the search found no case"
"""Why a test of cases is skipped after a search that came to its end: that is a comparison."""


def note(item: pytest.Item, **values: str | float) -> None:
    """Leave what was measured on the item, for JUnit and other reports: plain values only.

    A value that pytest-xdist cannot send would lose the whole report, failure and all; it cannot
    send what only inherits from `str` or `float`.
    """
    own = {f"{PREFIX}{name}": value for name, value in values.items()}
    kept = [pair for pair in item.user_properties if pair[0] not in own]
    item.user_properties[:] = kept + [
        (name, str.__str__(value) if isinstance(value, str) else float(value))
        for name, value in own.items()
    ]


def final_reports(terminal: pytest.TerminalReporter) -> Iterator[pytest.TestReport]:
    """What pytest reported of tests; of one that ran again, only the last run."""
    for reports in terminal.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and str(report.outcome) != "rerun":
                yield report


def is_ours(report: pytest.TestReport) -> bool:
    """Whether a report is of an item of ours, or of a test that we skipped."""
    if SUITE_SUFFIX in report.nodeid or any(name.startswith(PREFIX) for name in left_by(report)):
        return True
    return skip_reason(report).startswith(SKIP_PREFIX)


def skip_reason(report: pytest.TestReport) -> str:
    """Why a test was skipped; empty for others."""
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return ""
    return report.longrepr[2].removeprefix("Skipped: ")


def left_by(report: pytest.TestReport) -> dict[str, Any]:
    """What an item left on a report, by name."""
    return {name: value for name, value in report.user_properties if isinstance(name, str)}
