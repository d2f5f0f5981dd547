"""`pytest-divergence discover`: the search of a pytest session, without tests."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

import pytest

from pytest_divergence.cli._output import complain, give, say
from pytest_divergence.cli._project import begun, in_project, pytest_words, require_models
from pytest_divergence.core.file_names import REPORT
from pytest_divergence.core.regular_files import read_regular_text
from pytest_divergence.plugin.gaps import reason_against
from pytest_divergence.plugin.session import DivergenceSession
from pytest_divergence.plugin.usage_errors import shown_settings
from pytest_divergence.reports.terminal import summary_lines
from pytest_divergence.reports.text_blocks import WIDTH


def run(given: Namespace) -> int:
    """Search, and print what was found."""
    mode = f"--divergence-mode={'search' if given.anew else 'auto'}"
    return in_project([*pytest_words(given), mode], partial(_search, given))


def _search(given: Namespace, config: pytest.Config) -> int:
    return exit_code(searched(config, verbosity=given.verbose, as_json=given.json))


def searched(
    config: pytest.Config, *, verbosity: int = 0, as_json: bool = False
) -> DivergenceSession:
    """Search, print what was found, also by a search that was stopped, and return the session."""
    session = begun(config)
    require_models(session)
    try:
        session.outcome()
    finally:
        if session.report is not None:
            _show(session, verbosity, as_json=as_json)
    return session


def _show(session: DivergenceSession, verbosity: int, *, as_json: bool) -> None:
    report, folder = session.report, session.report_dir
    assert report is not None and folder is not None  # noqa: PT018  # set together
    if as_json:
        give(read_regular_text(folder / REPORT))
        return
    for line in summary_lines(
        report,
        width=WIDTH,
        verbosity=verbosity,
        report_path=session.shown(folder / "report.html"),
        suite=session.shown(session.own_suite),
        given=shown_settings(session),
        is_read_back=session.is_read_back,
    ):
        say(line)


def exit_code(session: DivergenceSession) -> int:
    """Return 1 if the search is incomplete, and print why; else 0."""
    reason = reason_against(session.report) if session.report is not None else None
    if reason is None:
        return 0
    complain(f"error: {reason}")
    return 1
