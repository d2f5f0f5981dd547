"""`*.divergence.jsonl` files become pytest items.

Knows which items a suite has. Does not know what they assert (`pytest_divergence.items`), nor
which suites take part (`pytest_divergence.participation`).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence import updating
from pytest_divergence.aggregate_items import (
    AGGREGATE_ITEM,
    SHIFT_ITEM,
    AggregateItem,
    RowsItem,
    ShiftItem,
    has_aggregate,
)
from pytest_divergence.core.stored import list_suite, read_suite, suite_without_cases
from pytest_divergence.failing import usage_errors
from pytest_divergence.items import BehaviourItem, CaseItem, SearchItem
from pytest_divergence.measuring import metric_for, suite_bounds
from pytest_divergence.other_reference import ReferenceCheck
from pytest_divergence.pairs import Models, has_own_pair
from pytest_divergence.replaying import SuiteReplay
from pytest_divergence.session import NO_MODELS, DivergenceSession, of
from pytest_divergence.update_items import UpdateItem

if TYPE_CHECKING:
    from _pytest.fixtures import FuncFixtureInfo

    from pytest_divergence.core.behaviours import Behaviour
    from pytest_divergence.core.cases import Case
    from pytest_divergence.core.report import Report
    from pytest_divergence.core.stored import StoredSuite

SAME_SETTINGS = ("chat_template", "system_prompt", "dtype")
"""Settings under which a stored value was measured; others give another value."""


class SuiteFile(pytest.Module):
    """A suite in pytest's tree; a module, so that module-scoped fixtures have a place."""

    obj = None
    fixtureinfo: FuncFixtureInfo | None = None
    """What pytest knows of the fixtures of each item: they all call one function."""
    reference_check: ReferenceCheck | None = None
    """Of a suite that is replayed on named models."""

    def collect(self) -> list[pytest.Item]:
        """One item a case, after the item `search` where this session's search wrote the suite."""
        session = of(self.config)
        session.is_used = True
        with usage_errors(session), _no_search_for_cycles():
            report = self._report(session)
            searched: list[pytest.Item] = []
            if report is not None:
                searched.append(SearchItem.make(self, report))
                if session.resolved.settings.max_shift is not None:
                    searched.append(ShiftItem.of_search(self, report))
            is_fresh = report is not None
            if report is not None and not report.has_cases:
                stored = suite_without_cases(self.path)
                return [*searched, *self._behaviour_items(session, stored, is_fresh=is_fresh)]
            stored = (list_suite if session.is_listing else read_suite)(self.path)
            models = self._models(session)
            if not (is_fresh or session.is_listing or session.updates or models is None):
                self.reference_check = ReferenceCheck(session, stored, models)
            replay = SuiteReplay(session, stored)
            return [
                *(searched or self._rows_items(session, replay)),
                *self._behaviour_items(session, stored, is_fresh=is_fresh),
                *self._case_items(session, replay, is_fresh=is_fresh),
            ]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """An unusable suite is one line, without a traceback."""
        if isinstance(excinfo.value, pytest.UsageError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def _report(self, session: DivergenceSession) -> Report | None:
        """The report of the search that wrote this suite in this session, if one did."""
        if not session.has_search or self.path != session.own_suite:
            return None
        return session.outcome().report

    def _behaviour_items(
        self, session: DivergenceSession, stored: StoredSuite, *, is_fresh: bool
    ) -> list[pytest.Item]:
        from pytest_divergence.core.behaviours import gates

        if stored.provenance is None:
            return []
        fail_on, models = session.resolved.settings.fail_on, self._models(session)

        def is_carried(behaviour: Behaviour) -> bool:
            if is_fresh or models is None or behaviour.absent:
                return is_fresh
            return _is_of_these_models(session, stored, models)

        return [
            BehaviourItem.make(self, behaviour, partial(is_carried, behaviour))
            for behaviour in stored.provenance.behaviours
            if gates(behaviour, fail_on) and (is_fresh or behaviour.telling is not None)
        ]

    def _rows_items(self, session: DivergenceSession, replay: SuiteReplay) -> list[pytest.Item]:
        """The items about all rows of a replayed suite together."""
        if session.updates:  # what is about to change is not judged
            return []
        kinds: dict[str, type[RowsItem]] = {}
        if has_aggregate(replay.stored):
            kinds[AGGREGATE_ITEM] = AggregateItem
        if session.resolved.settings.max_shift is not None:
            kinds[SHIFT_ITEM] = ShiftItem
        if session.is_listing:
            return [kind.listed(self, name) for name, kind in kinds.items()]
        is_carried = self._carries(session, replay.stored, is_fresh=False)
        return [kind.of_rows(self, name, replay, is_carried) for name, kind in kinds.items()]

    def _case_items(
        self, session: DivergenceSession, replay: SuiteReplay, *, is_fresh: bool
    ) -> list[pytest.Item]:
        stored = replay.stored
        if session.is_listing:
            lines = stored.suite.lines
            return [CaseItem.listed(self, case, lines[case.id]) for case in stored.suite.cases]
        update = updating.begin(session, stored)
        bounds = suite_bounds(session, self.path, stored if update is None else update.judged)
        if not (is_fresh or has_own_pair(self)):
            models = session.models_for(self.path)
            if models is None:
                raise pytest.UsageError(f"replaying {session.shown(self.path)} {NO_MODELS}")
            if session.worker_input is None:  # a worker without our items need not import torch
                session.pairs.check(models)

        is_carried = self._carries(session, stored, is_fresh=is_fresh)
        return [
            UpdateItem.make(self, case, update)
            if update is not None and update.takes(case)
            else CaseItem.make(self, case, replay, bounds[case.id], is_carried)
            for case in stored.suite.cases
        ]

    def _carries(
        self, session: DivergenceSession, stored: StoredSuite, *, is_fresh: bool
    ) -> Callable[[Case], bool]:
        """Tells whether a row's stored value counts in this session."""
        models = self._models(session)

        def is_carried(row: Case) -> bool:
            if is_fresh or models is None:
                return is_fresh
            return _is_measured_so(session, row) and _is_of_these_models(session, stored, models)

        return is_carried

    def _models(self, session: DivergenceSession) -> Models | None:
        """The named models that the suite is replayed on; None where a conftest brings a pair."""
        return None if has_own_pair(self) else session.models_for(self.path)


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Pause the garbage collector: it would take as long as reading thousands of rows does.

    Rows make no cycles, so that it would find nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _is_measured_so(session: DivergenceSession, row: Case) -> bool:
    """Whether a stored value is of the metric asked for; a plugin's may have changed since."""
    from pytest_divergence.core.settings import BUILT_IN_METRICS

    metric = row.kl.metric if row.kl is not None else None
    return metric in BUILT_IN_METRICS and metric == metric_for(session, row)


def _is_of_these_models(session: DivergenceSession, stored: StoredSuite, models: Models) -> bool:
    """Whether a suite was made with these models and the settings that matter."""
    provenance = stored.provenance
    if provenance is None:
        return False
    settings = session.resolved.settings.model_dump(include=set(SAME_SETTINGS))
    if any(provenance.settings.get(key, value) != value for key, value in settings.items()):
        return False
    written = (provenance.reference.weights_sha256, provenance.candidate.weights_sha256)
    return written == tuple(one.weights_sha256 for one in session.identities(models))
