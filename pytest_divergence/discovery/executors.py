"""Executors: who computes a work unit, and where. What a unit computes is not their affair.

`InProcess` does every unit itself, `Sharded` (in `discovery.sharding`) its share of them; an engine
that sends units to other processes would be a third.
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
    is_common: bool = False
    """Small, and nothing goes on without it: each machine had better do it than wait for it."""


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

    @classmethod
    def of(cls, name: str, record: dict[str, Any], *, is_new: bool = False) -> Done:
        """The value of a journal's record."""
        return cls(name, record["result"], record["tokens"], record["seconds"], is_new)


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
            yield remembered(self._journal, unit, self._load_pair)


def remembered(journal: Journal, unit: Unit, load_pair: Callable[[], ModelPair]) -> Done:
    """A unit from a journal, or computed and then remembered there."""
    is_new = unit.name not in journal
    record = journal.remember(unit.name, partial(_measured, unit, load_pair))
    return Done.of(unit.name, record, is_new=is_new)


def _measured(unit: Unit, load_pair: Callable[[], ModelPair]) -> dict[str, object]:
    pair = load_pair()
    started, tokens = time.monotonic(), pair.tokens_forwarded
    result = unit.compute(pair)
    return {
        "result": result,
        "tokens": pair.tokens_forwarded - tokens,
        "seconds": round(time.monotonic() - started, 3),
    }
