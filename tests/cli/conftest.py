"""A user's project, and the command run in it as from a shell."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from pytest_divergence.cli import main
from tests.forked import run_forked
from tests.plugin.conftest import Project, project  # noqa: F401  # a fixture

FAKE_SEARCH = {"PYTEST_ADDOPTS": "-p tests.plugin.fake_search"}
"""Environment in which a search is a fake one."""

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


@pytest.fixture
def command(project: Project) -> Command:  # noqa: F811  # the fixture
    """Run `pytest-divergence` in the project's folder, with `typed` on stdin."""

    def run(*words: str, typed: str = "", folder: str = ".", **environment: str) -> Done:
        return run_forked(
            lambda: main(list(words)), project.path / folder, environment=environment, typed=typed
        )

    return run
