"""`pytest-divergence init`: what a project needs to compare two models, shown before it is written.

Knows which files there are and what stays as it is; what stands in them is in `setup_files`.
"""

from __future__ import annotations

import difflib
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_divergence.cli._settings import add_settings
from pytest_divergence.plugin.options import MODELS

if TYPE_CHECKING:
    from pytest_divergence.cli._setup_files import SetupFile


SUITE = "tests/release.divergence.jsonl"


def add(parser: ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Set up the project in this folder: both models in the ini file that it has (pytest.ini, "
        "pyproject.toml, tox.ini or setup.cfg, else a new pytest.ini), a conftest.py, and a GitHub "
        "workflow that replays a suite. What is there stays as it is; everything is shown, and "
        "written once you agree. Run a second time, it changes nothing."
    )
    parser.add_argument(
        "--suite", default=SUITE, help="the suite that the workflow replays (default: %(default)s)"
    )
    parser.add_argument("-y", "--yes", action="store_true", help="write without asking")
    add_settings(parser, MODELS)
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Show, ask, and write."""
    from pytest_divergence.cli._project import in_project
    from pytest_divergence.cli._setup_files import setup_files, write

    models = {field: value for field in MODELS if (value := getattr(given, field)) is not None}
    files = in_project([], lambda config: setup_files(config, models, given.suite))
    changed = [one for one in files if one.after is not None]
    for one in files:
        print(one.note)
    for line in (line for one in changed for line in _difference(one)):
        print(line)
    if not changed:
        print("nothing to do")
        return 0
    if not given.yes and not _agreed(changed):
        print("nothing was written")
        return 1
    write(changed)
    print(f"wrote {_names(changed)}")
    print("\n".join(_next_steps(given.suite)))
    return 0


def _difference(one: SetupFile) -> Iterator[str]:
    """What changes, as `diff -u` shows it, without control characters of the file's own."""
    from pytest_divergence.reports.wording import visible

    before, after = (one.before or "").splitlines(), (one.after or "").splitlines()
    old = one.name if one.before is not None else "/dev/null"
    yield ""
    for line in difflib.unified_diff(before, after, old, one.name, lineterm=""):
        yield visible(line)


def _agreed(changed: Sequence[SetupFile]) -> bool:
    try:
        answer = input(f"\nwrite {_names(changed)}? [y/N] ")
    except EOFError:  # nobody is there to ask
        print("\nadd --yes to write without being asked")
        return False
    return answer.strip().lower() in ("y", "yes")


def _names(changed: Sequence[SetupFile]) -> str:
    *first, last = [one.name for one in changed]
    return f"{', '.join(first)} and {last}" if first else last


def _next_steps(suite: str) -> list[str]:
    folder = Path(suite).parent
    make = [] if folder.is_dir() else [f"  mkdir -p {shlex.quote(str(folder))}"]
    return [
        "",
        "next, search, keep what you found, and commit it; the workflow replays it:",
        "  pytest-divergence discover",
        *make,
        f"  pytest-divergence promote latest {shlex.quote(suite)}",
    ]
