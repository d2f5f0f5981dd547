"""Work units: done once, journaled, and counted, so that a run goes on where it stopped.

A unit's name and the run's key determine its result; a unit that the journal holds costs nothing,
not even the loading of the models.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pytest_divergence.core.journal import Journal
from pytest_divergence.core.provenance import Effort
from pytest_divergence.models.pair import ModelPair


class WorkUnits:
    """Runs units of work on a pair that is loaded when the first unit needs it."""

    def __init__(self, journal: Journal, load_pair: Callable[[], ModelPair]) -> None:
        self._journal = journal
        self._load_pair = load_pair
        self.tokens_forwarded = 0
        """Of all units, also those that an earlier session did."""
        self.seconds = 0.0
        self.prompts_scored = 0

    def do(self, unit: str, compute: Callable[[ModelPair], object]) -> Any:
        """The unit's result as plain JSON, from the journal or computed now."""

        def measured() -> dict[str, object]:
            pair = self._load_pair()
            started, tokens = time.monotonic(), pair.tokens_forwarded
            result = compute(pair)
            return {
                "result": result,
                "tokens": pair.tokens_forwarded - tokens,
                "seconds": round(time.monotonic() - started, 3),
            }

        record = self._journal.remember(unit, measured)
        self.tokens_forwarded += record["tokens"]
        self.seconds += record["seconds"]
        return record["result"]

    @property
    def num_computed(self) -> int:
        """Units that this session did itself."""
        return self._journal.num_computed

    @property
    def effort(self) -> Effort:
        """What all units together cost."""
        return Effort(
            prompts_scored=self.prompts_scored,
            tokens_forwarded=self.tokens_forwarded,
            seconds=round(self.seconds, 3),
        )
