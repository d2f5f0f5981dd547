"""`pytest-divergence discover`: the search of a pytest session, without tests."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING

from pytest_divergence.cli._settings import add_settings, fields_without, pytest_words

if TYPE_CHECKING:
    import pytest

    from pytest_divergence.plugin.session import DivergenceSession


FIELDS = fields_without(
    *("mode", "builtin_suite", "update", "fill", "github", "inconclusive", "max_shift")
)


def add(parser: ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Search two models for prompts on which they differ, as `pytest --model-1 … --model-2 …` "
        "does, with the project's ini file, conftest.py and plugins, and leave the same suite, "
        "report and journal; but run no test. What an earlier search has done is read back, and "
        "a search that was stopped goes on. Exit code 0: the search came to its end, whatever it "
        "found; 1: it could not be done, or not all of it."
    )
    add_settings(parser, FIELDS)
    parser.add_argument(
        "--anew", action="store_true", help="search anew, although an equal search has been done"
    )
    parser.add_argument("--json", action="store_true", help="print report.json, no summary")
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="show every case over the bound"
    )
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Search, and print what was found."""
    from pytest_divergence.cli._project import in_project

    mode = f"--divergence-mode={'search' if given.anew else 'auto'}"
    return in_project([*pytest_words(given, FIELDS), mode], partial(_search, given))


def _search(given: Namespace, config: pytest.Config) -> int:
    from pytest_divergence.cli._project import configure, require_models
    from pytest_divergence.plugin.session import of

    configure(config)
    session = of(config)
    require_models(session)
    try:
        session.outcome()
    finally:
        if session.report is not None:
            _show(given, session)
    return _code(session)


def _show(given: Namespace, session: DivergenceSession) -> None:
    from pytest_divergence.reports.terminal import summary_lines
    from pytest_divergence.reports.text_blocks import WIDTH

    report, folder = session.report, session.report_dir
    assert report is not None and folder is not None  # noqa: PT018  # set together
    if given.json:
        print((folder / "report.json").read_text("utf-8"), end="")
        return
    for line in summary_lines(
        report,
        width=WIDTH,
        verbosity=given.verbose,
        report_path=session.shown(folder / "report.html"),
        suite=session.shown(session.own_suite),
        is_tested=False,
        is_read_back=session.is_read_back,
    ):
        print(line)


def _code(session: DivergenceSession) -> int:
    """1 where the search has not seen all that it set out to see."""
    from pytest_divergence.plugin.items import reason_against

    reason = reason_against(session.report) if session.report is not None else None
    if reason is None:
        return 0
    print(f"error: {reason}", file=sys.stderr)
    return 1
