"""Failures become annotations on GitHub, and the run a part of the step's summary.

Knows the runner's variables and pytest's reports. Does not know how either text looks
(`pytest_divergence.reports.github`), nor which session it is done in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_divergence.core.cases import NATS_PER_TOKEN
from pytest_divergence.core.file_names import SUITE_SUFFIX
from pytest_divergence.core.regular_files import append_at_once
from pytest_divergence.core.safe_text import printable, visible
from pytest_divergence.plugin.notes import left_by
from pytest_divergence.plugin.session import DivergenceSession
from pytest_divergence.plugin.usage_errors import shown_settings
from pytest_divergence.reports.github import (
    MAX_SUMMARY_BYTES,
    Outcome,
    failure_annotations,
    fault_annotation,
    fault_markdown,
    fitted,
    outcomes_markdown,
)
from pytest_divergence.reports.markdown import render_markdown

SUMMARY, WORKSPACE = "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"


def write(
    terminal: pytest.TerminalReporter,
    session: DivergenceSession,
    reports: Sequence[pytest.TestReport],
    faults: Sequence[str],
) -> None:
    """Write annotations into the log, and the step's summary: at the end, where no line is torn."""
    outcomes = list(_outcomes(session, reports))
    if not outcomes and session.report is None and not faults:
        return

    lines = [*failure_annotations(outcomes), *map(fault_annotation, faults)]
    terminal.ensure_newline()
    for line in lines:
        terminal.write_line(line)
    if (fault := _append_summary(session, outcomes, faults)) is not None:
        terminal.write_line(printable(f"divergence: {fault}"), yellow=True)


def _outcomes(
    session: DivergenceSession, reports: Sequence[pytest.TestReport]
) -> Iterator[Outcome]:
    """One for each test that left a verdict; the last of its reports counts."""
    texts: dict[str, str] = {}
    last: dict[str, pytest.TestReport] = {}
    for report in reports:
        if SUITE_SUFFIX not in report.nodeid and "divergence_verdict" not in left_by(report):
            continue
        if report.when != "setup" or report.nodeid not in last:
            last[report.nodeid] = report
        if report.failed:
            texts[report.nodeid] = _why(report)
    for nodeid, report in sorted(last.items(), key=lambda one: _place(one[1])):
        left, (file, line), text = left_by(report), _place(report), texts.get(nodeid, "")
        yield Outcome(
            id=nodeid.partition("::")[2],
            file=_in_repository(session.config.rootpath / file),
            line=line,
            verdict=left.get("divergence_verdict") or ("error" if text else report.outcome),
            kl=left.get("divergence_kl"),
            unit=left.get("divergence_unit", NATS_PER_TOKEN),
            bound=left.get("divergence_bound"),
            text=text,
        )


def _why(report: pytest.TestReport) -> str:
    """The failure's text, the error's own sentence first where there is a traceback."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr or report.outcome)
    said = crash.message.removeprefix("Failed: ") if crash is not None else ""
    return text if text.startswith(said) else f"{said}\n\n{text}"


def _place(report: pytest.TestReport) -> tuple[str, int]:
    """File and line, from 1; pytest-xdist knows no line where a worker was killed."""
    file, line, _ = report.location
    return file, (line or 0) + 1


def _in_repository(path: Path) -> str:
    """A path as GitHub knows it: from the checkout's root."""
    root = Path(os.environ.get(WORKSPACE) or Path.cwd()).resolve()
    path = path.resolve()
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _append_summary(
    session: DivergenceSession, outcomes: Sequence[Outcome], faults: Sequence[str]
) -> str | None:
    """Append to the step's summary; says what keeps it from being written."""
    name = os.environ.get(SUMMARY)
    if not name:
        return f"there is no step summary: {SUMMARY} is not set"

    path = Path(name)
    try:
        there = path.stat().st_size if path.exists() else 0
        markdown = "\n" * bool(there) + _markdown(session, outcomes, faults)
        text = fitted(markdown, MAX_SUMMARY_BYTES - there)
        append_at_once(path, text.encode("utf-8"))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return f"the step summary {visible(name)} cannot be written: {reason}"
    return None if text else "the step summary is full, so nothing was added to it"


def _markdown(
    session: DivergenceSession, outcomes: Sequence[Outcome], faults: Sequence[str]
) -> str:
    """The search's page, a table of all else that was compared, and what ended or failed it all."""
    pages = [fault_markdown("\n\n".join(faults))] if faults else []
    if session.report is not None:
        suite, given = session.shown(session.own_suite), shown_settings(session)
        pages.append(render_markdown(session.report, suite=suite, given=given))
        searched = _in_repository(session.own_suite)
        outcomes = [one for one in outcomes if one.file != searched]
    if outcomes:
        pages.append(outcomes_markdown(outcomes))
    return "\n".join(pages)
