"""What a command prints: sentences, of which nothing is live in a terminal or a log, and data.

A sentence may hold the name of a file or what a stranger's file says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from pytest_divergence.core.safe_text import printable, printable_lines


def say(text: object) -> None:
    """Print our own words, at once."""
    print(printable(str(text)), flush=True)


def say_lines(lines: Iterable[object]) -> None:
    """Print lines, each of which stays one."""
    print("\n".join(printable_lines(map(str, lines))), flush=True)


def complain(text: object) -> None:
    """Print what goes wrong, beside the output."""
    print(printable(str(text)), file=sys.stderr, flush=True)


def give(data: str) -> None:
    """Print JSON, in which everything hidden is escaped already, as it is."""
    print(data, end="", flush=True)
