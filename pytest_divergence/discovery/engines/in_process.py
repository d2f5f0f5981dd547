"""The engine that computes every unit itself, one after the other, and journals it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from pytest_divergence.core.journal import Journal
from pytest_divergence.discovery.engines.base import Done, Unit
from pytest_divergence.models.pair import ModelPair


class InProcess:
    """Does each unit when it is asked for, on a pair that is loaded for the first one."""

    def __init__(self, journal: Journal, load_pair: Callable[[], ModelPair]) -> None:
        """Remember units in `journal`."""
        self._journal = journal
        self._load_pair = load_pair

    def do(self, units: Sequence[Unit]) -> Iterator[Done]:
        """From the journal, or computed now, one after the other."""
        for unit in units:
            is_new = unit.name not in self._journal
            record = self._journal.remember(unit.name, partial(_measured, unit, self._load_pair))
            yield Done(unit.name, record["result"], record["tokens"], record["seconds"], is_new)


def _measured(unit: Unit, load_pair: Callable[[], ModelPair]) -> dict[str, object]:
    pair = load_pair()
    started, tokens = time.monotonic(), pair.tokens_forwarded
    result = unit.compute(pair)
    return {
        "result": result,
        "tokens": pair.tokens_forwarded - tokens,
        "seconds": round(time.monotonic() - started, 3),
    }
