"""Units of work, what they cost, and what an engine is: who computes them, and where.

Does not know what a unit computes, nor which engine a run has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_divergence.core.provenance import Effort
from pytest_divergence.models.pair import ModelPair

Compute = Callable[[ModelPair], object]
OnComputed = Callable[[str, int, float], None]
"""Takes a unit's name, the tokens that it forwarded and its seconds."""


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


class Engine(Protocol):
    """Gets units done."""

    def do(self, units: Sequence[Unit]) -> Iterator[Done]:
        """Each unit done, in order; they do not depend on each other, so they may be done at once.

        Raises what computing one raises.
        """


@dataclass
class Spent:
    """What all units have cost, also those that an earlier session did."""

    tokens_forwarded: int = 0
    seconds: float = 0.0
    prompts_scored: int = 0
    num_computed: int = 0
    """Units that this session did itself."""


class WorkUnits:
    """Has units of work done by an engine, and counts what they cost.

    A unit's name and the run's key determine its result; a unit that a journal holds costs nothing,
    not even the loading of the models.
    """

    def __init__(
        self,
        engine: Engine,
        spent: Spent | None = None,
        *,
        on_computed: OnComputed = lambda unit, tokens, seconds: None,
    ) -> None:
        """`spent` is counted up, and `on_computed` hears of each unit that this session did."""
        self._engine = engine
        self._on_computed = on_computed
        self.spent = spent or Spent()

    def done_by(self, engine: Engine) -> WorkUnits:
        """More units, done by another engine and counted together with these."""
        return WorkUnits(engine, self.spent, on_computed=self._on_computed)

    def do(self, unit: str, compute: Compute) -> Any:
        """The unit's result as plain JSON."""
        return next(self.do_each([Unit(unit, compute)]))

    def do_each(self, units: Sequence[Unit]) -> Iterator[Any]:
        """The results of units that do not depend on each other, in order."""
        for done in self._engine.do(units):
            self.spent.tokens_forwarded += done.tokens
            self.spent.seconds += done.seconds
            if done.is_new:
                self.spent.num_computed += 1
                self._on_computed(done.name, done.tokens, done.seconds)
            yield done.result

    @property
    def effort(self) -> Effort:
        """What all units together cost."""
        return Effort(
            prompts_scored=self.spent.prompts_scored,
            tokens_forwarded=self.spent.tokens_forwarded,
            seconds=round(self.spent.seconds, 3),
        )
