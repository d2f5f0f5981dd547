"""Engines whose units make a journey: through bytes, or to another process and back."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing.pool import Pool
from pathlib import Path

from pytest_divergence.core.journal import Journal
from pytest_divergence.discovery.engines.base import Take, UnitResult, Worker, WorkUnit
from pytest_divergence.discovery.engines.in_process import InProcess
from pytest_divergence.discovery.progress import Listener, Silence
from pytest_divergence.models.loading import PairRecipe
from pytest_divergence.models.pair import ModelPair


class Posted(InProcess):
    """Computes copies of units that went through bytes, as another process would receive them."""

    def start(self, unit: WorkUnit) -> Take:
        """Start the copy."""
        return super().start(pickle.loads(pickle.dumps(unit)))


@dataclass
class OtherProcess:
    """A process that makes the pair of a recipe and computes all units; a context manager."""

    recipe: PairRecipe
    computed: list[str] = field(default_factory=list)
    """Names of its units, in order."""

    def __enter__(self) -> OtherProcess:
        self._pool: Pool = multiprocessing.get_context("spawn").Pool(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()
        self._pool.join()

    def engine(
        self,
        journal: Journal,
        *,
        load_pair: Callable[[], ModelPair],
        listener: Listener,
        artefacts: Path,
    ) -> _Elsewhere:
        """Return an engine, as `InProcess(...)` does; it never calls `load_pair`."""
        return _Elsewhere(self, journal, artefacts)

    def record(self, unit: WorkUnit, artefacts: Path) -> dict[str, object]:
        """Compute a unit over there."""
        self.computed.append(unit.name)
        record: dict[str, object] = self._pool.apply(_compute, (self.recipe, unit, artefacts))
        return record


@dataclass(frozen=True)
class _Elsewhere:
    other: OtherProcess
    journal: Journal
    artefacts: Path

    def start(self, unit: WorkUnit) -> Take:
        return partial(self._taken, unit)

    def _taken(self, unit: WorkUnit) -> UnitResult:
        is_new = unit.name not in self.journal
        compute = partial(self.other.record, unit, self.artefacts)
        record = self.journal.remember(unit.name, compute)
        return UnitResult(unit.name, record["result"], record["tokens"], record["seconds"], is_new)


@cache
def _loaded(model_1: str, model_2: str, recipe: bytes) -> ModelPair:
    pair: ModelPair = pickle.loads(recipe).load()
    return pair


def _compute(recipe: PairRecipe, unit: WorkUnit, artefacts: Path) -> dict[str, object]:
    """In the other process."""
    pair = _loaded(recipe.model_1, recipe.model_2, pickle.dumps(recipe))
    return unit.record(Worker(pair, Silence(), artefacts))
