"""How a command says where it is: lines on stderr, so that its output stays clean."""

from __future__ import annotations

import sys


class PhaseLines:
    """A listener that prints each step of each phase on a line of its own."""

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=sys.stderr, flush=True)

    def progress(self, phase: str, done: int, total: int) -> None:
        """Print where a phase is."""
        self.say(f"{phase} {done}/{total}")

    def expect(self, seconds: float) -> None:
        """Print nothing: each step is a line already."""
