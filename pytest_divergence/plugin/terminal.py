"""The summary of a session in pytest's terminal, and commands to copy.

Knows what items leave on pytest's reports. Does not know how a search is summarised
(`pytest_divergence.reports.terminal`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.file_names import FOLDER
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import printable_lines
from pytest_divergence.core.token_statistics import TokenStatistics
from pytest_divergence.plugin._compat import terminal_width
from pytest_divergence.plugin.notes import PREFIX, SKIP_PREFIX, left_by, skip_reason
from pytest_divergence.plugin.replay_report import write_replay_reports
from pytest_divergence.plugin.session import DivergenceSession
from pytest_divergence.plugin.usage_errors import shown_settings
from pytest_divergence.reports import wording
from pytest_divergence.reports.failures import comparison
from pytest_divergence.reports.terminal import summary_lines
from pytest_divergence.reports.text_blocks import WIDTH, sentence
from pytest_divergence.reports.token_statistics import statistics_lines

NUM_SHOWN = 3
"""Failed cases of a replay in a summary without -v."""
KINDS = {"case": "case", "behaviour": "behaviour", "shift": "typical shift"}
"""Words for what failed tests are about, by the kind that an item notes."""


def write_summary(
    terminal: pytest.TerminalReporter,
    session: DivergenceSession,
    reports: Sequence[pytest.TestReport],
) -> None:
    """Write what was found, replayed, rewritten or skipped."""
    others = [report for report in reports if not _is_of_search(session, report)]
    of_search = [report for report in reports if _is_of_search(session, report)]
    found = [*_report_lines(session, terminal, of_search), *case_lines(others, terminal.verbosity)]
    found += token_lines(reports) if terminal.verbosity > 0 else []
    lines = [*found, *session.rewritten, *write_replay_reports(session, reports)]
    notes = [
        *other_reference_lines(reports),
        *other_dtype_lines(reports),
        *inconclusive_lines(reports),
        *_skip_lines(reports),
    ]
    if (lines or notes) and terminal.verbosity >= 0:
        terminal.write_sep("=", "divergence")
    for line in printable_lines(lines):
        terminal.write_line(line)
    for line in printable_lines(notes):
        terminal.write_line(line, yellow=True)


def _report_lines(
    session: DivergenceSession,
    terminal: pytest.TerminalReporter,
    reports: Sequence[pytest.TestReport],
) -> list[str]:
    if session.report is None or session.report_dir is None:
        return []
    return summary_lines(
        session.report,
        width=max(60, min(terminal_width(terminal), 100)),
        verbosity=terminal.verbosity,
        report_path=session.shown(session.report_dir / "report.html"),
        suite=session.shown(session.own_suite),
        given=shown_settings(session),
        failed_tests=_failed_by_kind(reports),
        has_errors=any(report.failed and report.when != "call" for report in reports),
        is_read_back=session.is_read_back,
    )


def _failed_by_kind(reports: Sequence[pytest.TestReport]) -> dict[str, int]:
    """Count the failed tests of a search by kind, in the order in which a summary names them."""
    counts = Counter(
        left_by(report).get("divergence_kind")
        for report in reports
        if report.when == "call" and report.failed
    )
    return {name: counts.pop(kind, 0) for kind, name in KINDS.items()} | {
        "other test": counts.total()
    }


def _is_of_search(session: DivergenceSession, report: pytest.TestReport) -> bool:
    """Whether a report is about this session's search, whose own lines cover it."""
    return session.report is not None and session.file_of(report.nodeid) == session.own_suite


def _skip_lines(reports: Sequence[pytest.TestReport]) -> list[str]:
    """Return lines on our own skips, because skipped tests look green."""
    reasons = Counter(map(skip_reason, reports))
    return [
        f"{reason} ({number_of(count, 'test')} skipped)"
        for reason, count in reasons.items()
        if reason.startswith(SKIP_PREFIX)
    ]


def case_lines(reports: Sequence[pytest.TestReport], verbosity: int = 0) -> list[str]:
    """Return lines on the stored cases measured in this session: their number and verdicts.

    With a `verbosity` below 0 that is all; 0 adds the three failed cases furthest over their
    bounds, 1 all failed cases.
    """
    cases = {
        report.nodeid: left
        for report in reports
        if (left := left_by(report)).get("divergence_kind") == "case"
    }
    if not cases:
        return []
    first = _outcome(list(cases.values()))
    if verbosity < 0:
        return [f"divergence: {first}"]
    limit = None if verbosity else NUM_SHOWN
    return [first, *_failed_lines(cases, limit), *_text_lines(reports)]


def token_lines(reports: Sequence[pytest.TestReport]) -> list[str]:
    """Return the block on the tokens of each suite's control rows."""
    by_suite: dict[str, TokenStatistics] = {}
    for report in reports:
        left = left_by(report)
        if f"{PREFIX}mean_kld" in left:
            kept: dict[str, Any] = {
                name: left.get(PREFIX + name) for name in TokenStatistics.model_fields
            }
            counts = {name: int(value) for name, value in kept.items() if name.startswith("num_")}
            suite = report.nodeid.partition("::")[0]
            by_suite.setdefault(suite, TokenStatistics(**{**kept, **counts}))
    lines = []
    for suite, found in sorted(by_suite.items()):
        lines += [suite] if len(by_suite) > 1 else []
        lines += statistics_lines(found, WIDTH)
    return lines


def _outcome(cases: Sequence[Mapping[str, Any]]) -> str:
    """Return the sentence on all cases; those that were measured count as replayed."""
    counts = Counter(left["divergence_verdict"] for left in cases)
    num_replayed = counts["passed"] + counts["failed"]
    if not num_replayed:
        return f"{number_of(len(cases), 'stored case')} not measured."
    over = "over it" if counts["passed"] else "over the bound"
    words = {"within the bound": counts["passed"], over: counts["failed"]}
    if any("divergence_text" in left for left in cases):
        words = {
            "without a difference that is seen": counts["passed"],
            "with answers that differ": counts["failed"],
        }
    verdicts = ", ".join(f"{count} {word}" for word, count in words.items() if count)
    missed = f"; {counts['error']} not measured" if counts["error"] else ""
    return f"{number_of(num_replayed, 'stored case')} replayed: {verdicts}{missed}."


def _failed_lines(cases: Mapping[str, dict[str, Any]], limit: int | None) -> Iterator[str]:
    """Yield the failed cases with their values, the furthest over its bound first."""
    failed = [
        (left["divergence_kl"], left["divergence_bound"], nodeid, left)
        for nodeid, left in cases.items()
        if left["divergence_verdict"] == "failed" and "divergence_kl" in left
    ]
    failed.sort(key=lambda case: (-case[0] / case[1], case[2]))
    for kl, bound, nodeid, left in failed[:limit]:
        line = comparison(kl, bound, left["divergence_metric"], left["divergence_unit"])
        yield f"  {nodeid.rpartition('::')[2]:<35} {line}"
    if limit is not None and len(failed) > limit:
        yield f"  {len(failed) - limit} more with -v"


def _text_lines(reports: Sequence[pytest.TestReport]) -> Iterator[str]:
    """Yield what is known of all rows of each suite whose answers are compared as texts."""
    found = {
        report.nodeid: left["divergence_text"]
        for report in reports
        if "divergence_text" in (left := left_by(report)) and left["divergence_kind"] == "aggregate"
    }
    for text in found.values():
        yield from sentence(f"all rows together: {text}", width=WIDTH, indent="  ")


def inconclusive_lines(reports: Sequence[pytest.TestReport]) -> list[str]:
    """Return a line for each aggregate that could not decide."""
    undecided = {
        report.nodeid: left["divergence_aggregate"]
        for report in reports
        if "divergence_aggregate" in (left := left_by(report))
        and left["divergence_verdict"] == "inconclusive"
    }
    return [f"{nodeid} {sentence}" for nodeid, sentence in undecided.items()]


def other_reference_lines(reports: Sequence[pytest.TestReport]) -> list[str]:
    """Return a line for each suite that was made with another reference than the session's."""
    return [
        f"{suite}: its limits were measured against another reference, {name}"
        for suite, name in _by_suite(reports, "other_reference").items()
    ]


def other_dtype_lines(reports: Sequence[pytest.TestReport]) -> list[str]:
    """Return a line for each suite whose limits were measured in another dtype than its values."""
    return [
        f"{suite}: its limits were measured {dtypes}; what the dtype alone changes counts as the "
        "candidate's"
        for suite, dtypes in _by_suite(reports, "other_dtype").items()
    ]


def _by_suite(reports: Sequence[pytest.TestReport], name: str) -> dict[str, str]:
    """Return the note of this name for each suite that has one."""
    return {
        report.nodeid.partition("::")[0]: left[PREFIX + name]
        for report in reports
        if PREFIX + name in (left := left_by(report))
    }


def rerun(session: DivergenceSession, nodeid: str, *more: str) -> str:
    """Return the command that runs a test again as in this session."""
    _, separator, test = nodeid.partition("::")
    target = session.shown(session.file_of(nodeid)) + separator + test
    return wording.rerun_command(target, shown_settings(session), *more)


def update_command(session: DivergenceSession, nodeid: str) -> str | None:
    """Return the command that updates a test's suite; None for the suite of a search."""
    file = nodeid.partition("::")[0]
    if FOLDER in Path(file).parts:
        return None
    return rerun(session, file, "--divergence-update")
