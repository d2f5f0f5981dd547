"""`pytest-divergence report`: a run's pages anew, and what changed between two runs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_divergence.core.report import Report
    from pytest_divergence.reports.html import Earlier


def add(parser: ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Write report.html and summary.md of a run anew from its report.json. With two runs, say "
        "what is new, gone and changed since the first; with --output, the page of the second "
        "says so too. The exit code is 0 whether or not something differs: diff is for gates."
    )
    parser.add_argument(
        "report",
        metavar="RUN",
        nargs="?",
        type=Path,
        default=Path("latest"),
        help="a report.json, the folder of a run's report, or latest (default)",
    )
    parser.add_argument("later", metavar="LATER", nargs="?", type=Path, help="a second run")
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        help="where the files go (default, with one run: beside its report.json)",
    )
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Write the pages, and say where they are; compare first, where there are two runs."""
    path = _report_of(given.later or given.report)
    earlier = _compared(given.report, given.later) if given.later else None
    if earlier is not None and given.output is None:
        return 0
    return _write(path, given.output or path.parent, earlier)


def _write(path: Path, folder: Path, earlier: Earlier | None) -> int:
    from pytest_divergence.core.errors import StoreError
    from pytest_divergence.core.report import load_report
    from pytest_divergence.reports import write_reports

    report = load_report(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"--output={folder} cannot be made: {error.strerror}") from None
    for written in write_reports(report, folder, suite=_suite_of(report, path), earlier=earlier):
        print(f"wrote {written}")
    return 0


def _report_of(given: Path) -> Path:
    """The report.json that is meant. Raises SettingsError."""
    from pytest_divergence.cli._project import run_meant
    from pytest_divergence.core.errors import SettingsError
    from pytest_divergence.core.report import report_path

    path = report_path(run_meant(given))
    if path is None:
        raise SettingsError(
            f"{given} is not the report of a run; name a report.json, its folder, or latest "
            "(pytest-divergence diff compares suites)"
        )
    return path


def _suite_of(report: Report, path: Path) -> str | None:
    """The run's suite as its commands name it: from here; None where it is gone."""
    from pytest_divergence.cli import _project
    from pytest_divergence.core.errors import SettingsError
    from pytest_divergence.core.report import suite_of

    try:
        return str(suite_of(report, path, _project.root))
    except SettingsError:
        return None


def _compared(before: Path, after: Path) -> Earlier:
    """What differs between two runs, shown in the terminal as `diff` does."""
    from pytest_divergence.core.comparison import compare, side_of_run
    from pytest_divergence.core.report import load_report
    from pytest_divergence.reports.comparison import difference_lines
    from pytest_divergence.reports.html import Earlier

    first, second = (load_report(_report_of(one)) for one in (before, after))
    differences = compare(side_of_run(first), side_of_run(second))
    print("\n".join(difference_lines(differences, str(before), str(after))))
    return Earlier(first.run.id, differences)
