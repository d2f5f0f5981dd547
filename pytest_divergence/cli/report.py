"""`pytest-divergence report`: render a run's pages again, or compare two runs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from pytest_divergence.cli._output import say, say_lines
from pytest_divergence.cli._project import root, run_meant
from pytest_divergence.core.comparison import compare, side_of_run
from pytest_divergence.core.errors import SettingsError, StoreError
from pytest_divergence.core.files import check_inside
from pytest_divergence.core.regular_files import make_folders
from pytest_divergence.core.report import Report, load_report, report_path, suite_of
from pytest_divergence.reports.comparison import difference_lines
from pytest_divergence.reports.html import Earlier
from pytest_divergence.reports.report_files import write_reports


def run(given: Namespace) -> int:
    """Write the pages, and print their paths; if there are two runs, compare them first."""
    path = report_of(given.later or given.report)
    earlier = _compared(given.report, given.later) if given.later else None
    if earlier is not None and given.output is None:
        return 0
    return _write(path, given.output or path.parent, earlier)


def _write(path: Path, folder: Path, earlier: Earlier | None) -> int:
    report = load_report(path)
    check_inside(folder, within=Path.cwd())
    try:
        make_folders(folder)
    except OSError as error:
        raise StoreError(f"--output={folder} cannot be created: {error.strerror}") from None
    for written in write_reports(report, folder, suite=_suite_of(report, path), earlier=earlier):
        say(f"wrote {written}")
    return 0


def report_of(given: Path) -> Path:
    """Return the path of a run's report.json. Raises SettingsError."""
    path = report_path(run_meant(given))
    if path is None:
        raise SettingsError(
            f"{given} is not the report of a run; name a report.json, its folder, or latest "
            "(pytest-divergence diff compares suites)"
        )
    return path


def _suite_of(report: Report, path: Path) -> str | None:
    """Return the path of the run's suite for its commands, from here; None if it is gone."""
    try:
        return str(suite_of(report, path, root))
    except SettingsError:
        return None


def _compared(before: Path, after: Path) -> Earlier:
    """Print the differences between two runs as `diff` does; return them."""
    first, second = (load_report(report_of(path)) for path in (before, after))
    differences = compare(side_of_run(first), side_of_run(second))
    say_lines(difference_lines(differences, str(before), str(after)))
    return Earlier(first.run.id, differences)
