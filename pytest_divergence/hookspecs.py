"""Hooks that other plugins and conftest files may implement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_divergence.core.cases import Case
    from pytest_divergence.core.report import Report
    from pytest_divergence.discovery.strategies import Strategy


@pytest.hookspec
def pytest_divergence_strategies(config: pytest.Config) -> Mapping[str, Strategy]:  # type: ignore[empty-body]
    """Add strategies to the search, by name.

    All answers are merged; a name given twice ends the session with a usage error.
    """


@pytest.hookspec
def pytest_divergence_modify_cases(config: pytest.Config, cases: list[Case]) -> None:
    """Change the confirmed cases in place, before they are sorted and written."""


@pytest.hookspec
def pytest_divergence_report(config: pytest.Config, report: Report) -> None:
    """Look at a search's report once it is written, also where the search was stopped.

    With pytest-xdist called in one process only.
    """
