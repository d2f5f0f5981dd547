"""`pytest-divergence replay`: suites as the tests of one pytest session."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from pytest_divergence.cli._output import complain
from pytest_divergence.cli._project import PLUGIN, pytest_words
from pytest_divergence.core.errors import DivergenceError, SettingsError
from pytest_divergence.core.file_names import SUITE_SUFFIX, is_on_hub, is_suite
from pytest_divergence.core.suites import suites_below


def run(given: Namespace) -> int:
    """Run pytest and return its exit code."""
    try:
        suites = [suite for name in given.suites for suite in _suites(name)]
    except DivergenceError as error:  # pytest uses 1 for a case over its bound
        complain(f"error: {error}")
        return pytest.ExitCode.USAGE_ERROR
    words = pytest_words(given)
    return int(pytest.main([*PLUGIN, *words, "--divergence-mode=replay", *suites]))


def _suites(name: str) -> list[str]:
    if is_on_hub(name):  # pytest, with our plugin, fetches it
        return [name]
    path = Path(name)
    if not path.is_dir():
        if not is_suite(name.partition("::")[0]):
            raise SettingsError(
                f"{name} is not a suite; name a *{SUITE_SUFFIX}, or a folder of them"
            )
        return [name]
    found = [str(suite) for suite in suites_below(path)]
    if not found:
        raise SettingsError(
            f"there is no *{SUITE_SUFFIX} in {name}; run a search and promote its cases"
        )
    return found
