"""A user's project, and the command run in it as from a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.plugin.conftest import Project, project  # noqa: F401  # a fixture

FAKE_SEARCH = {"PYTEST_ADDOPTS": "-p tests.plugin.fake_search"}
"""Environment in which a search is a fake one."""

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


@pytest.fixture
def command(project: Project) -> Command:  # noqa: F811  # the fixture
    """Run `pytest-divergence` in the project's folder, with `typed` on stdin."""

    def run(*words: str, typed: str = "", folder: str = ".", **environment: str) -> Done:
        return subprocess.run(
            [sys.executable, "-m", "pytest_divergence.cli", *words],
            input=typed,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=project.path / folder,
            env={**os.environ, **environment},
            check=False,
        )

    return run
