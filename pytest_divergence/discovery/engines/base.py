"""Work units, their cost, and the protocol of an engine, which computes them.

Knows kinds of work by the names of units. Does not know what a unit computes, nor which engine a
run has.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from pytest_divergence.core.provenance import Effort
from pytest_divergence.core.report import FirstFound
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.models.fingerprints import text_digest
from pytest_divergence.models.pair import ModelPair

KINDS = {
    "controls/written": "written controls",
    "controls/": "controls, amplified answers to them, and noise",
    "calibrate/planted": "planted differences",
    "calibrate/": "noise of nuisances",
    "name/": "further amplified answers",
    "long-answers/": "long answers to controls",
    "contexts/": "contexts",
    "behaviour/decoy-": "test of the decoy",
    "behaviour/natural-": "natural prompts",
    "behaviour/": "tests of leads",
    "causes/": "causes",
    "nll/": "how natural prompts are",
    "natural/": "natural prompts",
    "confirm/": "cases",
}
"""Kinds of work by how the names of their units begin; the first that fits."""
OnComputed = Callable[[str, int, float], None]
"""Takes a unit's name, the tokens that it forwarded and its seconds."""


@dataclass(frozen=True)
class Worker:
    """Computes units: a pair, the listener to its progress, and a folder for heavy files."""

    pair: ModelPair
    listener: Listener
    artefacts: Path


@dataclass(frozen=True)
class WorkUnit:
    """A piece of work as a value that can be pickled; its name and the run's key fix its result."""

    name: str
    function: Callable[..., object]
    """A module's function of a `Worker` and the arguments; returns plain JSON."""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: str, function: Callable[..., object], **arguments: Any) -> WorkUnit:
        """Return a unit that is named after its kind and all of its arguments.

        A session in which a strategy failed may have found other prompts than the one before it.
        """
        exact = json.dumps(arguments, default=_typed_fields, sort_keys=True)
        return cls(f"{kind}/{text_digest(exact)[:16]}", function, arguments)

    def record(self, worker: Worker) -> dict[str, Any]:
        """Return the result as plain JSON, the tokens forwarded for it, its seconds and its end.

        Raises what the function raises.
        """
        started, tokens = time.monotonic(), worker.pair.tokens_forwarded
        result = self.function(worker, **self.arguments)
        return {
            "result": result,
            "tokens": worker.pair.tokens_forwarded - tokens,
            "seconds": round(time.monotonic() - started, 3),
            "ended": round(time.time(), 3),
        }


@dataclass(frozen=True)
class UnitResult:
    """A unit's result and cost, whichever session computed it."""

    name: str
    result: Any
    """Plain JSON."""
    tokens: int
    """Forwarded tokens."""
    seconds: float
    is_new: bool
    """Whether this session computed it."""
    ended: float = 0.0
    """System time at which it ended, seconds; 0 in the journals of earlier versions."""


Take = Callable[[], UnitResult]
"""Waits for a unit that was started, or computes it; raises what the unit raises."""


class Engine(Protocol):
    """Computes units, some at the same time if it can."""

    def start(self, unit: WorkUnit) -> Take:
        """Begin a unit, or plan to, and return how to take its result.

        Units that are started before another's result is taken do not depend on each other.
        """


@dataclass
class Spent:
    """The cost of all units, also of those that an earlier session computed."""

    tokens_forwarded: int = 0
    seconds: float = 0.0
    prompts_scored: int = 0
    tokens_by_kind: Counter[str] = field(default_factory=Counter)
    """`tokens_forwarded` by kind of work, in the order in which the work began."""
    num_computed: int = 0
    """Units that this session computed."""
    earlier_seconds: float = 0.0
    """Time in which earlier sessions computed units; what workers did at once counts once."""
    earlier_end: float = 0.0
    """The system's time at which the last of these ended."""

    @property
    def so_far(self) -> FirstFound:
        """Work until now, when something is found for the first time."""
        return FirstFound(seconds=round(self.seconds, 3), tokens_forwarded=self.tokens_forwarded)


class Ledger:
    """Hands units to an engine and adds up what they cost.

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
        """Add to `spent`, and call `on_computed` for each unit that this session computes."""
        self._engine = engine
        self._on_computed = on_computed
        self.spent = spent or Spent()

    def with_engine(self, engine: Engine) -> Ledger:
        """Return a ledger of another engine, whose costs are counted together with these."""
        return Ledger(engine, self.spent, on_computed=self._on_computed)

    def result(self, unit: WorkUnit) -> Any:
        """Return the unit's result as plain JSON; raises what the unit raises."""
        return self.start(unit)()

    def results(self, units: Sequence[WorkUnit]) -> Iterator[Any]:
        """Yield the results of units that do not depend on each other, in order."""
        for take in [self.start(unit) for unit in units]:
            yield take()

    def start(self, unit: WorkUnit) -> Callable[[], Any]:
        """Begin a unit; the function returned gives its result, as `result` does."""
        return partial(self._taken, self._engine.start(unit))

    def _taken(self, take: Take) -> Any:
        computed = take()
        self.spent.tokens_forwarded += computed.tokens
        if computed.tokens:
            self.spent.tokens_by_kind[kind_of_work(computed.name)] += computed.tokens
        self.spent.seconds += computed.seconds
        if computed.is_new:
            self.spent.num_computed += 1
            self._on_computed(computed.name, computed.tokens, computed.seconds)
        else:
            since_last = max(0.0, computed.ended - self.spent.earlier_end)
            self.spent.earlier_seconds += min(computed.seconds, since_last)
            self.spent.earlier_end += since_last
        return computed.result

    @property
    def effort(self) -> Effort:
        """The cost of all units together."""
        return Effort(
            prompts_scored=self.spent.prompts_scored,
            tokens_forwarded=self.spent.tokens_forwarded,
            seconds=round(self.spent.seconds, 3),
            tokens_by_kind=dict(self.spent.tokens_by_kind),
        )


def kind_of_work(unit: str) -> str:
    """Return the kind of work of a unit, by its name: `search: seeds` for `search/seeds/0`."""
    first, _, rest = unit.partition("/")
    if first == "search":
        return f"search: {rest.split('/')[0]}"
    return next((kind for start, kind in KINDS.items() if unit.startswith(start)), first)


def _typed_fields(value: object) -> dict[str, object]:
    """Return the fields of an argument by its type, since two types may have the same fields.

    Not all that it holds: a property that is kept may be there or not. Raises TypeError for a value
    without fields.
    """
    if isinstance(value, BaseModel):
        found = dict(value)
    else:
        found = {each.name: getattr(value, each.name) for each in fields(value)}  # type: ignore[arg-type]
    return {type(value).__qualname__: found}
