"""A run as it lies on disk: its report, and the suite that its search wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.naming import from_here, suite_path
from pytest_divergence.core.report import Report
from pytest_divergence.core.store import latest_report_dir

FOLDER = ".divergence"
REPORT = "report.json"
LATEST = "latest"


def report_path(given: Path) -> Path | None:
    """The report.json that a path means: the file, its folder, or a folder's `latest`.

    None: another file.
    Raises SettingsError where nothing is there.
    """
    if given.name == LATEST and not given.is_dir():
        folder = latest_report_dir(given.parent)
        if folder is None:
            raise SettingsError(f"{given}: there is no run yet in {given.parent}; name a suite")
        return folder / REPORT
    if given.is_dir():
        if not (given / REPORT).is_file():
            raise SettingsError(f"{given} holds no {REPORT}; name the folder of one run, or latest")
        return given / REPORT
    if not given.exists():
        raise SettingsError(
            f"{given} does not exist; name a suite, or the folder of a run's report"
        )
    return given if given.name == REPORT else None


def suite_of(report: Report, path: Path, root_of: Callable[[], Path]) -> Path:
    """Where the search wrote the suite of the pair that a report, read from `path`, is about.

    The path is from the working directory. `root_of` tells the project of a report that lies
    outside of its `.divergence`. Raises SettingsError where the suite is gone.
    """
    project = next((one.parent for one in path.resolve().parents if one.name == FOLDER), None)
    specs = (
        str(report.settings.get(name) or spec)
        for name, spec in (("model_1", report.pair.reference), ("model_2", report.pair.candidate))
    )
    suite = from_here(suite_path(project or root_of(), *specs))
    if not suite.is_file():
        raise SettingsError(f"the suite of run {report.run.id} is not there any more: {suite}")
    return suite
