"""Suites on the Hub in commands that take the path of one."""

from __future__ import annotations

from pathlib import Path

from pytest_divergence.cli._output import complain
from pytest_divergence.cli._project import root
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.file_names import from_here
from pytest_divergence.exports.hub import fetch


def local_suites(given: Path) -> list[Path]:
    """Return the copies of the suites of a dataset, and say which commit they are of."""
    found = fetch(str(given), root())
    complain(f"{given} is {found.source}")
    return [from_here(suite) for suite in found.suites]


def local_suite(given: Path) -> Path:
    """Return the copy of a dataset's only suite. Raises SettingsError where it has several."""
    suites = local_suites(given)
    if len(suites) > 1:
        names = ", ".join(map(str, suites))
        raise SettingsError(f"{given} holds several suites; name one of its copies: {names}")
    return suites[0]
