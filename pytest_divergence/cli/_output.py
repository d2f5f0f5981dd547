"""Output of a command: sentences, in which nothing can control a terminal or a CI log, and data.

A sentence may hold a file's name or untrusted text from a file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from pytest_divergence.core.safe_text import printable, printable_lines


def say(text: object) -> None:
    """Print a sentence, at once."""
    print(printable(str(text)), flush=True)


def say_lines(lines: Iterable[object]) -> None:
    """Print lines; each stays one line."""
    print("\n".join(printable_lines(map(str, lines))), flush=True)


def complain(text: object) -> None:
    """Print an error or a warning to stderr."""
    print(printable(str(text)), file=sys.stderr, flush=True)


def give(data: str) -> None:
    """Print JSON as it is: its hidden characters are already escaped."""
    print(data, end="", flush=True)
