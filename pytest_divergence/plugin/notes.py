"""Notes that our items leave on pytest's reports, and how they are read back.

Imports nothing heavy: a session without our items looks for notes too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pytest_divergence.core.file_names import SUITE_SUFFIX

PREFIX = "divergence_"
"""Beginning of the name of each note."""
SKIP_PREFIX = "divergence: "
"""Beginning of the reason of our own skips, so that the summary can count them."""
NO_CASE = "the search found no case"
"""Reason of a test skipped after a complete search without cases, which is a comparison."""

ENTRY = pytest.StashKey[Any]()
"""An item's entry in the report of a replay, in the item's stash."""
SENT = f"{PREFIX}entry"
"""Attribute of pytest's reports that holds an entry."""


def note(item: pytest.Item, **values: str | float) -> None:
    """Leave measured values on the item, for JUnit and other reports, as plain values only.

    A value that pytest-xdist cannot send would lose the whole report, failure included; it cannot
    send subclasses of `str` or `float`.
    """
    own = {f"{PREFIX}{name}": value for name, value in values.items()}
    kept = [pair for pair in item.user_properties if pair[0] not in own]
    item.user_properties[:] = kept + [
        (name, str.__str__(value) if isinstance(value, str) else float(value))
        for name, value in own.items()
    ]


def send_entry(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put an item's entry on the report of its test: what a killed worker has sent is not lost.

    It travels as JSON text, because pytest-xdist can send any text.
    """
    if report.when == "call" or report.failed:
        entry = item.stash.get(ENTRY, None)
        setattr(report, SENT, entry and entry.model_dump_json())
    if report.when == "teardown" and ENTRY in item.stash:  # the test may run again
        del item.stash[ENTRY]


def final_reports(terminal: pytest.TerminalReporter) -> Iterator[pytest.TestReport]:
    """Yield pytest's reports of tests; for a test that ran again, only the last run's."""
    for reports in terminal.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and str(report.outcome) != "rerun":
                yield report


def is_ours(report: pytest.TestReport) -> bool:
    """Whether a report is about an item of ours, or a test that we skipped."""
    if SUITE_SUFFIX in report.nodeid or any(name.startswith(PREFIX) for name in left_by(report)):
        return True
    return skip_reason(report).startswith(SKIP_PREFIX)


def skip_reason(report: pytest.TestReport) -> str:
    """Return the reason of a skip; empty for other reports."""
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return ""
    return report.longrepr[2].removeprefix("Skipped: ")


def left_by(report: pytest.TestReport) -> dict[str, Any]:
    """Return an item's notes on a report, by name."""
    return {name: value for name, value in report.user_properties if isinstance(name, str)}
