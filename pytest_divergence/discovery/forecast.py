"""How long a run will take, from what its units have cost so far."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_divergence.core.settings import Profile
from pytest_divergence.discovery.cost import WRITING_SPEED, estimate_seconds, roughly
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.units import Spent

WRITING_UNIT = "controls/written"
MEASURED_FROM = 1.0
"""Seconds of work that tell a speed: what a device does once has passed by then."""
SAID_FROM = 10.0
"""Seconds: a run that takes less is not worth a line."""


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
