"""Listeners, through which a run tells people where it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from pytest_divergence.core.quantities import roughly


class Listener(Protocol):
    """Hears what a run does; a terminal, a log, or nobody."""

    def say(self, text: str) -> None:
        """Show people one line, safe to print."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of a phase are finished."""

    def expect(self, seconds: float) -> None:
        """Show that the run should end in so many seconds; later calls correct it."""


class Silence:
    """The listener of a run that nobody watches."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """Show nothing."""

    def expect(self, seconds: float) -> None:
        """Show nothing."""


class Countdown:
    """The time left, as last estimated."""

    def __init__(self) -> None:
        """Expect nothing yet."""
        self._end: float | None = None

    def expect(self, seconds: float) -> None:
        """Expect the end in so many seconds."""
        self._end = time.monotonic() + seconds

    def __str__(self) -> str:
        """Return `about 3 min left`, or nothing before anything was expected."""
        if self._end is None:
            return ""
        left = self._end - time.monotonic()
        return f"about {roughly(left)} left" if left > 0 else "longer than estimated"


class ProgressLine:
    """One line that is written over as the run goes on: in a notebook, or on a terminal."""

    def __init__(self, write: Callable[[str], object]) -> None:
        """Call `write` with pieces of text, such as `sys.stdout.write`."""
        self._write = write
        self._countdown = Countdown()
        self._width = 0

    def say(self, text: str) -> None:
        """Leave the text on a line of its own."""
        self._show(text)
        self._write("\n")
        self._width = 0

    def progress(self, phase: str, done: int, total: int) -> None:
        """Write over the line."""
        left = str(self._countdown)
        self._show(f"{phase} {done}/{total}{', ' if left else ''}{left}")

    def expect(self, seconds: float) -> None:
        """Count down from so many seconds, on the next line."""
        self._countdown.expect(seconds)

    def _show(self, text: str) -> None:
        self._write(f"\r{text:<{self._width}}")
        self._width = len(text)
