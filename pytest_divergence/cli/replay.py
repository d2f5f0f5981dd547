"""`pytest-divergence replay`: suites as the tests of one pytest session."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from pytest_divergence.cli._project import suites_below
from pytest_divergence.cli._settings import add_settings, fields_without, pytest_words

FIELDS = fields_without("mode", "budget", "seeds", "num_cases", "gate", "builtin_suite")


def add(parser: ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Replay suites on two models; nothing is searched. This runs pytest, in this process, on "
        "the suites alone: the project's ini file, conftest.py and plugins hold, and its output "
        "and exit code are pytest's. Models that are not given here come from the environment or "
        "the ini file. For options of pytest, such as -n or --junitxml, run pytest on the suites, "
        "or set PYTEST_ADDOPTS."
    )
    parser.add_argument(
        "suites",
        metavar="SUITE",
        nargs="+",
        help="a *.divergence.jsonl, one of its cases as SUITE::ID, or a folder with suites in it",
    )
    add_settings(parser, FIELDS)
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Run pytest; returns its exit code."""
    import pytest

    from pytest_divergence.cli._project import PLUGIN
    from pytest_divergence.core.errors import DivergenceError

    try:
        suites = [suite for name in given.suites for suite in _suites(name)]
    except DivergenceError as error:  # 1 is the code of a case over its bound
        print(f"error: {error}", file=sys.stderr)
        return pytest.ExitCode.USAGE_ERROR
    words = pytest_words(given, FIELDS)
    return int(pytest.main([*PLUGIN, *words, "--divergence-mode=replay", *suites]))


def _suites(name: str) -> list[str]:
    from pytest_divergence.core.errors import SettingsError
    from pytest_divergence.core.file_names import SUITE_SUFFIX

    path = Path(name)
    if not path.is_dir():
        if not name.partition("::")[0].endswith(SUITE_SUFFIX):
            raise SettingsError(f"{name} is no suite; name a *{SUITE_SUFFIX}, or a folder of them")
        return [name]
    found = [str(suite) for suite in suites_below(path)]
    if not found:
        raise SettingsError(
            f"there is no *{SUITE_SUFFIX} in {name}; search first, then promote what you keep"
        )
    return found
