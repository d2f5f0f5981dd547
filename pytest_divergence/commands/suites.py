"""Which suites a command means."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

SUITES = Path(".divergence") / "suites"
"""Where searches leave theirs."""
PATTERN = "*.divergence.jsonl"


def add_suites(parser: ArgumentParser) -> None:
    """The argument that `suites_of` reads."""
    parser.add_argument(
        "suites",
        metavar="SUITE",
        nargs="*",
        type=Path,
        help=f"suite or folder of suites (default: {SUITES})",
    )


def suites_of(given: Sequence[Path]) -> list[Path]:
    """The suites that are given, those of given folders, or else those that searches left here."""
    suites: list[Path] = []
    for path in given or [SUITES]:
        suites += sorted(path.glob(PATTERN)) if path.is_dir() else [path]
    return suites


def suites_below(folder: Path) -> list[Path]:
    """The suites of a folder and of the folders in it, but for hidden ones."""
    found = sorted(folder.rglob(PATTERN))
    return [one for one in found if not _is_hidden(one.relative_to(folder))]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
