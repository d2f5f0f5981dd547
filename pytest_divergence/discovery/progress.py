"""How a run tells people where it is."""

from __future__ import annotations

from typing import Protocol


class Listener(Protocol):
    """Hears what a run does; a terminal, a log, or nobody."""

    def say(self, text: str) -> None:
        """Show people one line, safe to print."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of a phase are finished."""

    def expect(self, seconds: float) -> None:
        """Show that the run should end in so many seconds; called again as more is known."""


class Silence:
    """The listener of a run that nobody watches."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """Show nothing."""

    def expect(self, seconds: float) -> None:
        """Show nothing."""
