"""The command `pytest-divergence`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

SUITES = Path(".divergence") / "suites"
PATTERN = "*.divergence.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 1 with a sentence on what went wrong."""
    from pytest_divergence.core.errors import DivergenceError

    given = _parser().parse_args(arguments)
    try:
        return _accept(given.behaviour, given.suites)
    except DivergenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytest-divergence",
        description="Live with the suites that `pytest --model-1 … --model-2 …` writes.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    accept = commands.add_parser(
        "accept",
        help="mark a behaviour as intended, so that it no longer fails",
        description="Mark a behaviour as intended in the provenance of the suites that know it.",
    )
    accept.add_argument("behaviour", metavar="ID", help="printed with the behaviour's failure")
    accept.add_argument(
        "suites",
        metavar="SUITE",
        nargs="*",
        type=Path,
        help=f"suite or folder of suites (default: {SUITES})",
    )
    return parser


def _accept(behaviour_id: str, given: Sequence[Path]) -> int:
    from pytest_divergence.discovery.accepting import accept

    suites: list[Path] = []
    for path in given or [SUITES]:
        suites += sorted(path.glob(PATTERN)) if path.is_dir() else [path]
    for suite in accept(behaviour_id, suites):
        print(f"accepted {behaviour_id} in {suite}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
