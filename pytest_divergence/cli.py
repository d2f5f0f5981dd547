"""The command `pytest-divergence`: its subcommands stand in `pytest_divergence.commands`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_divergence.commands import accept, calibrate, diff, promote

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

COMMANDS = (calibrate, promote, accept, diff)
"""In the order of `--help`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 1 with a sentence on what went wrong."""
    from pytest_divergence.core.errors import DivergenceError

    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except DivergenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytest-divergence",
        description="Live with the suites that `pytest --model-1 … --model-2 …` writes.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
