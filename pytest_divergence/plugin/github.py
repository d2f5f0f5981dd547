"""Annotations of failures on GitHub, and the run's part of the step summary.

Knows the runner's variables and pytest's reports. Does not know how either text looks
(`pytest_divergence.reports.github`), nor which sessions write them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.cases import NATS_PER_TOKEN, quantity
from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS
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
    """Write annotations and the step summary at the end, where no other output breaks a line."""
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
    """Yield an outcome for each test that left a verdict; the last of its reports counts."""
    texts: dict[str, str] = {}
    last: dict[str, pytest.TestReport] = {}
    for report in reports:
        if SUITE_SUFFIX not in report.nodeid and "divergence_verdict" not in left_by(report):
            continue
        if report.when != "setup" or report.nodeid not in last:
            last[report.nodeid] = report
        if report.failed:
            texts[report.nodeid] = _why(report)
    for nodeid, report in sorted(last.items(), key=lambda entry: _place(entry[1])):
        left, (file, line), text = left_by(report), _place(report), texts.get(nodeid, "")
        yield Outcome(
            id=nodeid.partition("::")[2],
            file=_in_repository(session.config.rootpath / file),
            line=line,
            verdict=left.get("divergence_verdict") or ("error" if text else report.outcome),
            kl=left.get("divergence_kl"),
            scale=_scale(left),
            bound=left.get("divergence_bound"),
            text=text,
        )


def _scale(left: Mapping[str, Any]) -> str:
    """Return the quantity that an item noted, and its unit: `KL, nats/token`."""
    name = quantity(left.get("divergence_metric", BUILT_IN_METRICS[0]))
    return f"{name}, {left.get('divergence_unit', NATS_PER_TOKEN)}"


def _why(report: pytest.TestReport) -> str:
    """Return the failure's text; if it has a traceback, the error's message comes first."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr or report.outcome)
    said = crash.message.removeprefix("Failed: ") if crash is not None else ""
    return text if text.startswith(said) else f"{said}\n\n{text}"


def _place(report: pytest.TestReport) -> tuple[str, int]:
    """Return file and line, from 1; pytest-xdist gives no line if a worker was killed."""
    file, line, _ = report.location
    return file, (line or 0) + 1


def _in_repository(path: Path) -> str:
    """Return a path as GitHub shows it: from the checkout's root."""
    root = Path(os.environ.get(WORKSPACE) or Path.cwd()).resolve()
    path = path.resolve()
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _append_summary(
    session: DivergenceSession, outcomes: Sequence[Outcome], faults: Sequence[str]
) -> str | None:
    """Append to the step summary; return the reason if that fails, else None."""
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
    """Return what ended or failed the session, the search's page, and a table of all else."""
    pages = [fault_markdown("\n\n".join(faults))] if faults else []
    if session.report is not None:
        suite, given = session.shown(session.own_suite), shown_settings(session)
        pages.append(render_markdown(session.report, suite=suite, given=given))
        searched = _in_repository(session.own_suite)
        outcomes = [outcome for outcome in outcomes if outcome.file != searched]
    if outcomes:
        pages.append(outcomes_markdown(outcomes))
    return "\n".join(pages)
