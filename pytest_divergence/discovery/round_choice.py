"""The choice of the next round of a search, within its budget of tokens.

Goes by the rounds that are taken over and by those under way, whose result it must not know: a
choice is the same however many of them are computed at a time. Does not know what a round does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_divergence.discovery.strategies.protocol import PRIOR_TOKENS, Round, most_paying

CORE = "soft_prompt"
"""The strategy that always gets its share of the tokens, whatever the others find."""
CORE_SHARE = 1 / 3
LEAST_PART = 1 / 4
"""Smallest part of a round: less is not worth a soft prompt's training."""


@dataclass(frozen=True)
class Turn:
    """The next round of a search."""

    strategy: str
    part: float = 1.0
    """The part of a whole round's work, above 0 to 1."""


@dataclass(frozen=True)
class Budget:
    """Forwarded tokens for the rounds of a search."""

    left: int
    """Tokens not yet spent on rounds that are taken over."""
    share: int
    """Tokens of the core strategy, if it has more to offer."""
    least: int
    """Tokens that it gets even where its next round is expected to take more than is left."""


@dataclass(frozen=True)
class Choice:
    """The rounds so far, by which the next one is chosen."""

    rounds: Mapping[str, Sequence[Round]]
    """Rounds of each strategy that are taken over."""
    pending: Sequence[tuple[str, Round]]
    """Rounds under way by strategy, as `assumed` tells of them."""
    core_tokens: int
    """Forwarded tokens that the core strategy has had, also in rounds without a proposal."""

    def turn(self, ready: Sequence[str], budget: Budget) -> Turn | None:
        """Return the next round, of a strategy of those ready for one; None ends the search.

        It goes to the one that found the most for its cost, or is still untried; the others leave
        to the core strategy what it is owed. Where less is left than the core strategy's round
        takes, and it is still owed some of its least, it gets part of a round.
        """
        left = budget.left - sum(assumed.tokens_forwarded for _, assumed in self.pending)
        owed = self._owed(budget.share, left) if CORE in ready else 0
        affordable = [
            name
            for name in ready
            if left > 0 and self._expected_cost(name) + self._kept_from(name, owed) <= left
        ]
        if affordable:
            known = [(name, past) for name in affordable for past in self.rounds[name]]
            return Turn(most_paying(affordable, [*known, *self.pending]))
        lacking = self._lacking(budget.least)
        if CORE not in ready or lacking <= 0:
            return None
        last = self._last_cost(CORE)
        if not last and any(name == CORE for name, _ in self.pending):
            return None
        part = max(left, lacking) / last if last else 1.0
        return Turn(CORE, min(1.0, max(LEAST_PART, part)))

    def assumed(self, turn: Turn, variant: str) -> Round:
        """Return the result that a round is assumed to have while under way.

        It finds nothing, so that others have their turn, for what the last one took.
        """
        cost = turn.part * self._expected_cost(turn.strategy)
        return Round(variant, 0, round(cost) or PRIOR_TOKENS, turn.part)

    def _lacking(self, share: int) -> int:
        """Return the forwarded tokens of `share` that the core strategy has not had."""
        begun = sum(past.tokens_forwarded for name, past in self.pending if name == CORE)
        return share - self.core_tokens - begun

    def _owed(self, share: int, left: int) -> int:
        """Return the forwarded tokens to keep for what the core strategy lacks: whole rounds.

        Before its first, of unknown cost, it is all that is left.
        """
        lacking, last = self._lacking(share), self._last_cost(CORE)
        if lacking <= 0:
            return 0
        return math.ceil(lacking / last) * last if last else max(lacking, left)

    def _kept_from(self, name: str, owed: int) -> int:
        """Return the forwarded tokens that a strategy's next round must leave to soft prompts.

        Each strategy may have its first round before soft prompts have theirs.
        """
        is_pending = any(each == name for each, _ in self.pending)
        is_first = not self.rounds[name] and not is_pending and not self.rounds.get(CORE)
        return 0 if name == CORE or is_first else owed

    def _expected_cost(self, name: str) -> float:
        """Return forwarded tokens: of the last round, before the first of the others' mean."""
        if last := self._last_cost(name):
            return last
        costs = [done.tokens_forwarded for rounds in self.rounds.values() for done in rounds]
        return sum(costs) / len(costs) if costs else 0.0

    def _last_cost(self, name: str) -> int:
        """Forwarded tokens of a whole round, by a strategy's last; 0 before its first."""
        if not (rounds := self.rounds[name]):
            return 0
        return round(rounds[-1].tokens_forwarded / rounds[-1].part)
