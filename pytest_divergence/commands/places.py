"""Where pytest, started in this folder, leaves what it finds: what commands mean by default."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pytest

LATEST = "latest"


class Places(NamedTuple):
    """The folders of the project that this folder belongs to; none of them is made."""

    root: Path
    """Where `.divergence` is, or would be."""
    suites: Path
    """Where searches leave their suites, from here."""
    reports: Path
    """Where they leave their reports, from here."""


def places() -> Places:
    """The places, as the ini file and the environment have them. Raises SettingsError."""
    from pytest_divergence.commands.project import in_project

    return in_project([], _places)


def root() -> Path:
    """The project's root folder. Raises SettingsError."""
    return places().root


def run_meant(given: Path) -> Path:
    """The folder of the project's last run for `latest`; any other path as it is.

    Raises SettingsError where there is no run yet.
    """
    from pytest_divergence.core.errors import SettingsError
    from pytest_divergence.core.store import latest_report_dir

    if given != Path(LATEST) or given.is_dir():
        return given
    reports = places().reports
    folder = latest_report_dir(reports)
    if folder is None:
        raise SettingsError(f"{LATEST}: there is no run yet in {reports}; name a suite")
    return folder


def _places(config: pytest.Config) -> Places:
    from pytest_divergence.core.naming import from_here
    from pytest_divergence.option_values import report_dir
    from pytest_divergence.session import of

    session = of(config)
    own = session.root / ".divergence"
    reports = report_dir(config) or own / "reports"
    return Places(session.root, from_here(own / "suites"), from_here(reports))
