"""Which suites a command means."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

PATTERN = "*.divergence.jsonl"


def add_suites(parser: ArgumentParser) -> None:
    """The argument that `suites_of` reads."""
    parser.add_argument(
        "suites",
        metavar="SUITE",
        nargs="*",
        type=Path,
        help="suite or folder of suites (default: those that searches left in the project's "
        ".divergence/suites)",
    )


def suites_of(given: Sequence[Path]) -> list[Path]:
    """The suites that are given, those of given folders, or else those that searches left.

    Raises SettingsError where none is given and there are none.
    """
    if not given:
        return _found()
    suites: list[Path] = []
    for path in given:
        suites += sorted(path.glob(PATTERN)) if path.is_dir() else [path]
    return suites


def _found() -> list[Path]:
    from pytest_divergence.commands.places import places
    from pytest_divergence.core.errors import SettingsError

    folder = places().suites
    if suites := sorted(folder.glob(PATTERN)):
        return suites
    raise SettingsError(f"there is no suite in {folder}; search first, or name one")


def suites_below(folder: Path) -> list[Path]:
    """The suites of a folder and of the folders in it, but for hidden ones."""
    found = sorted(folder.rglob(PATTERN))
    return [one for one in found if not _is_hidden(one.relative_to(folder))]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
