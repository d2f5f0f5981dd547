"""What people see of a session: header, progress of the search, summary.

Knows pytest's capturing and terminal; does not know what a search does, nor how its progress is
drawn (`pytest_divergence.listeners`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence.option_values import DEFAULT, Given
from pytest_divergence.options import MODELS
from pytest_divergence.pairs import INI

if TYPE_CHECKING:
    from pytest_divergence.discovery.progress import Listener
    from pytest_divergence.listeners import BarListener
    from pytest_divergence.session import DivergenceSession

SHOWN_SETTINGS = {"profile": "profile", "max_kl": "bound", "mode": "mode"}
"""What the header shows of the settings, and the word for it."""
SKIP_PREFIX = "divergence: "
"""Begins the reason of our own skips, so that the summary can count them."""
UNUSED = (
    "divergence: two models were given, but nothing used them: name a *.divergence.jsonl, take "
    "divergence_case or model_pair in a test, or add --divergence-builtin-suite=on"
)


@contextmanager
def shown(config: pytest.Config) -> Iterator[Listener]:
    """The listener of one search, visible although pytest captures."""
    with uncaptured(config):
        if sys.stderr.isatty() and not hasattr(config, "workerinput"):
            with _bar() as listener:
                yield listener
        else:
            from pytest_divergence.listeners import LogListener

            lines = LogListener(_printer(config))
            try:
                yield lines
            finally:
                lines.stop()


def announce(config: pytest.Config, text: str) -> None:
    """One line for people, outside of a search."""
    with uncaptured(config):
        _printer(config)(f"divergence: {text}")


@contextmanager
def uncaptured(config: pytest.Config) -> Iterator[None]:
    """Output reaches the terminal, also during collection and fixtures."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        if terminal is not None:
            terminal.ensure_newline()
        yield


@contextmanager
def _bar() -> Iterator[BarListener]:
    from rich.console import Console

    from pytest_divergence.listeners import bar_on

    # A console bound before capturing was lifted would show nothing.
    with bar_on(Console(stderr=True)) as listener:
        yield listener


def _printer(config: pytest.Config) -> Callable[[str], None]:
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")
    if terminal is None or hasattr(config, "workerinput"):
        return partial(print, file=sys.stderr, flush=True)  # a worker's stdout is lost
    write: Callable[[str], None] = terminal.write_line
    return write


def header_lines(session: DivergenceSession) -> list[str]:
    """Pytest's header: the pair, the most important settings, and where each came from."""
    if session.is_off:
        return []
    num_pairs = 0 if session.is_explicit else len(session.config.getini(INI))
    more = [f"divergence: {num_pairs} pair{'s' if num_pairs > 1 else ''} from {INI}"]
    return [*_pair_lines(session), *(more if num_pairs else [])]


def _pair_lines(session: DivergenceSession) -> list[str]:
    if not session.has_models:
        return []
    names = [_model_name(session, session.given[field]) for field in MODELS]
    sources = [session.given[field].source for field in MODELS]
    lines = [
        f"divergence: reference {names[0]} ({sources[0]}), candidate {names[1]} ({sources[1]})",
        f"divergence: {', '.join(_setting(session, field) for field in SHOWN_SETTINGS)}",
    ]
    if names[0] == names[1]:
        lines.append("divergence: the same model twice, so nothing should differ")
    return lines


def _model_name(session: DivergenceSession, one: Given) -> str:
    """A spec without secrets, also where no model can be found by it."""
    from pytest_divergence.core.errors import DivergenceError
    from pytest_divergence.core.safe_text import safe_line
    from pytest_divergence.models.specs import parse_spec

    try:
        name = str(parse_spec(one.value, role="", root=session.config.invocation_params.dir))
    except DivergenceError:
        name = one.value if "://" not in one.value else "[a URL]"
    return safe_line(name)[1:-1]


def _setting(session: DivergenceSession, field: str) -> str:
    from pytest_divergence.core.safe_text import safe_line

    one = session.given.get(field, Given("auto", DEFAULT))
    return f"{SHOWN_SETTINGS[field]} {safe_line(one.value, 40)[1:-1]} ({one.source})"


def write_summary(
    terminal: pytest.TerminalReporter,
    session: DivergenceSession,
    exitstatus: int,
    *,
    more: Sequence[str] = (),
) -> None:
    """The end of a session: what was found, skipped, or not used at all."""
    from pytest_divergence import replay_summary

    reports = list(final_reports(terminal))
    lines = _report_lines(session, terminal) or replay_summary.case_lines(
        reports, terminal.verbosity
    )
    lines = [*lines, *more]
    notes = [
        *replay_summary.other_reference_lines(reports),
        *replay_summary.inconclusive_lines(reports),
        *_skip_lines(terminal),
    ]
    is_wanted = session.has_models and not session.is_off and not session.is_listing
    if (
        session.is_asked
        and is_wanted
        and not session.is_used
        and exitstatus != pytest.ExitCode.USAGE_ERROR
    ):
        notes.append(UNUSED)
    if (lines or notes) and terminal.verbosity >= 0:
        terminal.write_sep("=", "divergence")
    for line in lines:
        terminal.write_line(line)
    for line in notes:
        terminal.write_line(line, yellow=True)


def _report_lines(session: DivergenceSession, terminal: pytest.TerminalReporter) -> list[str]:
    if session.report is None or session.report_dir is None:
        return []
    from pytest_divergence.reports.terminal import summary_lines

    return summary_lines(
        session.report,
        width=max(60, min(terminal._tw.fullwidth, 100)),
        verbosity=terminal.verbosity,
        report_path=session.shown(session.report_dir / "report.html"),
        suite=session.shown(session.own_suite),
        is_read_back=session.is_read_back,
    )


def _skip_lines(terminal: pytest.TerminalReporter) -> list[str]:
    """Our own skips look green, so they are told apart from others."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in final_reports(terminal)
        if report.skipped and isinstance(report.longrepr, tuple)
    )
    return [
        f"{reason} ({count} test{'s' if count > 1 else ''} skipped)"
        for reason, count in reasons.items()
        if reason.startswith(SKIP_PREFIX)
    ]


def final_reports(terminal: pytest.TerminalReporter) -> Iterator[pytest.TestReport]:
    """What pytest reported of tests; of one that ran again, only the last run."""
    for reports in terminal.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and str(report.outcome) != "rerun":
                yield report
