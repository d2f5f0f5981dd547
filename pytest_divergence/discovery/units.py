"""Work units: done once, journaled, and counted, so that a run goes on where it stopped.

A unit's name and the run's key determine its result; a unit that the journal holds costs nothing,
not even the loading of the models.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_divergence.core.journal import Journal
from pytest_divergence.core.provenance import Effort
from pytest_divergence.models.pair import ModelPair


@dataclass
class Spent:
    """What all units have cost, also those that an earlier session did."""

    tokens_forwarded: int = 0
    seconds: float = 0.0
    prompts_scored: int = 0
    num_computed: int = 0
    """Units that this session did itself."""


OnComputed = Callable[[str, int, float], None]
"""Takes a unit's name, the tokens that it forwarded and its seconds."""


class WorkUnits:
    """Runs units of work on a pair that is loaded when the first unit needs it."""

    def __init__(
        self,
        journal: Journal,
        load_pair: Callable[[], ModelPair],
        spent: Spent | None = None,
        *,
        on_computed: OnComputed = lambda unit, tokens, seconds: None,
    ) -> None:
        """Remember units in `journal`; `spent` is counted up.

        `on_computed` hears of each unit that this session did.
        """
        self._journal = journal
        self._load_pair = load_pair
        self._on_computed = on_computed
        self.spent = spent or Spent()

    def kept_in(self, journal: Journal) -> WorkUnits:
        """The same units, remembered in another journal and counted together."""
        return WorkUnits(journal, self._load_pair, self.spent, on_computed=self._on_computed)

    def do(self, unit: str, compute: Callable[[ModelPair], object]) -> Any:
        """The unit's result as plain JSON, from the journal or computed now."""

        def measured() -> dict[str, object]:
            pair = self._load_pair()
            started, tokens = time.monotonic(), pair.tokens_forwarded
            result = compute(pair)
            self.spent.num_computed += 1
            return {
                "result": result,
                "tokens": pair.tokens_forwarded - tokens,
                "seconds": round(time.monotonic() - started, 3),
            }

        num_computed = self.spent.num_computed
        record = self._journal.remember(unit, measured)
        self.spent.tokens_forwarded += record["tokens"]
        self.spent.seconds += record["seconds"]
        if self.spent.num_computed > num_computed:
            self._on_computed(unit, record["tokens"], record["seconds"])
        return record["result"]

    @property
    def effort(self) -> Effort:
        """What all units together cost."""
        return Effort(
            prompts_scored=self.spent.prompts_scored,
            tokens_forwarded=self.spent.tokens_forwarded,
            seconds=round(self.spent.seconds, 3),
        )
