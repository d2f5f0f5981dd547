"""How a run tells people where it is, and how long it will take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_divergence.discovery.cost import WRITING_SPEED, estimate_seconds, roughly

if TYPE_CHECKING:
    from pytest_divergence.core.settings import Profile
    from pytest_divergence.discovery.units import Spent

WRITING_UNIT = "controls/written"
MEASURED_FROM = 1.0
"""Seconds of work that tell a speed: what a device does once has passed by then."""
SAID_FROM = 10.0
"""Seconds: a run that takes less is not worth a line."""


class Listener(Protocol):
    """Hears what a run does; a terminal, a log, or nobody."""

    def say(self, text: str) -> None:
        """One line for people, safe to print."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """`done` of `total` steps of a phase are finished."""

    def expect(self, seconds: float) -> None:
        """The run is expected to end in so many seconds; said again as more is known."""


class Silence:
    """The listener of a run that nobody watches."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """Show nothing."""

    def expect(self, seconds: float) -> None:
        """Show nothing."""


@dataclass
class Forecast:
    """Estimates when a run will end, from the speed of the units that it has done."""

    profile: Profile
    budget_seconds: float | None
    spent: Spent
    """All that the budget is counted by, earlier sessions' units too."""
    listener: Listener
    _tokens: int = 0
    _seconds: float = 0.0
    _is_said: bool = False

    def take(self, unit: str, tokens: int, seconds: float) -> None:
        """Take a unit's speed into account, and tell the listener."""
        if tokens == 0 or seconds <= 0:  # tells nothing about speed
            return
        self._tokens += tokens
        self._seconds += seconds * (WRITING_SPEED if unit == WRITING_UNIT else 1.0)
        is_known = self._is_said and self.budget_seconds is not None  # a clock ends it, not tokens
        if self._seconds < MEASURED_FROM * WRITING_SPEED or is_known:
            return
        speed = self._tokens / self._seconds
        left = estimate_seconds(
            self.profile,
            speed,
            tokens_forwarded=self.spent.tokens_forwarded,
            budget_seconds=self.budget_seconds,
        )
        self.listener.expect(left)
        if not self._is_said and left >= SAID_FROM:
            budget = max(0, self.profile.budget_tokens - self.spent.tokens_forwarded)
            self.listener.say(
                f"about {roughly(left)} to go: {budget:,} tokens of the budget are left, "
                f"{speed:,.0f} a second"
            )
        self._is_said = True
