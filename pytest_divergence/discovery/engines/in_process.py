"""The engine that computes every unit itself, one after the other, and journals it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pytest_divergence.core.journal import Journal
from pytest_divergence.discovery.engines.base import Take, UnitResult, Worker, WorkUnit
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.models.pair import ModelPair


class InProcess:
    """Computes each unit when its result is asked for, on a pair that the first one loads."""

    def __init__(
        self,
        journal: Journal,
        load_pair: Callable[[], ModelPair],
        listener: Listener,
        artefacts: Path,
    ) -> None:
        """Remember results in `journal`; units write heavy files to `artefacts`."""
        self._journal = journal
        self._load_pair = load_pair
        self._listener = listener
        self._artefacts = artefacts

    def start(self, unit: WorkUnit) -> Take:
        """Plan a unit, which is computed when its result is taken."""
        return partial(self._taken, unit)

    def _taken(self, unit: WorkUnit) -> UnitResult:
        """Return the result from the journal, or compute it now."""
        is_new = unit.name not in self._journal
        record = self._journal.remember(unit.name, partial(self._record, unit))
        return UnitResult(unit.name, **record, is_new=is_new)

    def _record(self, unit: WorkUnit) -> dict[str, object]:
        return unit.record(Worker(self._load_pair(), self._listener, self._artefacts))
