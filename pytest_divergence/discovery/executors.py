"""Executors: who computes a work unit, and where. What a unit computes is not their affair.

`InProcess` does every unit itself; an engine that sends units to other processes would be another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from pytest_divergence.core.journal import Journal
from pytest_divergence.models.pair import ModelPair

Compute = Callable[[ModelPair], object]


@dataclass(frozen=True)
class Unit:
    """A piece of work; its name and the run's key determine its result."""

    name: str
    compute: Compute
    """From the pair to plain JSON."""


@dataclass(frozen=True)
class Done:
    """A unit's result, and what it has cost, whoever did it and when."""

    name: str
    result: Any
    """Plain JSON."""
    tokens: int
    """Forwarded."""
    seconds: float
    is_new: bool
    """Whether this session did it."""


class Executor(Protocol):
    """Gets units done."""

    def do(self, units: Sequence[Unit]) -> Iterator[Done]:
        """Each unit done, in order; they do not depend on each other, so they may be done at once.

        Raises what computing one raises.
        """


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
