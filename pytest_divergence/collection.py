"""`*.divergence.jsonl` files become pytest items.

Knows which items a suite has. Does not know what they assert (`pytest_divergence.items`), nor
which suites take part (`pytest_divergence.participation`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence.items import BehaviourItem, CaseItem, SearchItem
from pytest_divergence.measuring import metric_for, suite_bounds
from pytest_divergence.replaying import SuiteReplay
from pytest_divergence.session import NO_MODELS, REPORT_KEY, DivergenceSession, of
from pytest_divergence.stored import read_suite

if TYPE_CHECKING:
    from pytest_divergence.core.cases import Case
    from pytest_divergence.core.report import Report
    from pytest_divergence.stored import StoredSuite

SAME_SETTINGS = ("chat_template", "system_prompt", "dtype")
"""Settings under which a stored value was measured; others give another value."""


class SuiteFile(pytest.Module):
    """A suite in pytest's tree; a module, so that module-scoped fixtures have a place."""

    obj = None

    def collect(self) -> list[pytest.Item]:
        """One item a case, after the item `search` where this session's search wrote the suite."""
        session = of(self.config)
        session.is_used = True
        with session.usage_errors():
            report = self._report(session)
            searched: list[pytest.Item] = []
            if report is not None:
                searched.append(SearchItem.make(self, report))
            if report is not None and not report.cases:
                return searched  # a search that confirmed nothing may have written no suite
            stored = read_suite(self.path)
            is_fresh = report is not None
            return [
                *searched,
                *self._behaviour_items(session, stored, is_fresh=is_fresh),
                *self._case_items(session, stored, is_fresh=is_fresh),
            ]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """An unusable suite is one line, without a traceback."""
        if isinstance(excinfo.value, pytest.UsageError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def _report(self, session: DivergenceSession) -> Report | None:
        """The report of the search that wrote this suite in this session, if one did."""
        has_search = session.outcome or REPORT_KEY in (session.worker_input or {})
        if not has_search or self.path != session.own_suite:
            return None
        return session.outcome().report

    def _behaviour_items(
        self, session: DivergenceSession, stored: StoredSuite, *, is_fresh: bool
    ) -> list[pytest.Item]:
        from pytest_divergence.core.behaviours import gates

        if stored.provenance is None:
            return []
        fail_on, has_own_pair = session.resolved.settings.fail_on, self._has_own_pair()

        def is_carried() -> bool:
            is_ours = session.has_models and not has_own_pair
            return is_fresh or (is_ours and _is_of_these_models(session, stored))

        return [
            BehaviourItem.make(self, behaviour, is_carried)
            for behaviour in stored.provenance.behaviours
            if gates(behaviour, fail_on) and (is_fresh or behaviour.telling is not None)
        ]

    def _case_items(
        self, session: DivergenceSession, stored: StoredSuite, *, is_fresh: bool
    ) -> list[pytest.Item]:
        bounds = {} if session.is_listing else suite_bounds(session, self.path, stored)
        has_own_pair = self._has_own_pair()
        if not (is_fresh or has_own_pair or session.is_listing):
            if not session.has_models:
                raise pytest.UsageError(f"replaying {session.shown(self.path)} {NO_MODELS}")
            if session.worker_input is None:  # a worker without our items need not import torch
                session.identities()

        def is_carried(case: Case) -> bool:
            return is_fresh or (not has_own_pair and _is_measured_so(session, stored, case))

        replay = SuiteReplay(session, stored)

        return [
            CaseItem.make(self, case, replay, bounds.get(case.id, 0.0), is_carried)
            for case in stored.suite.cases
        ]

    def _has_own_pair(self) -> bool:
        """Whether a conftest overrides `model_pair` for this suite."""
        found = self.session._fixturemanager.getfixturedefs("model_pair", self) or ()
        return bool(found) and found[-1].func.__module__ != "pytest_divergence.plugin"


def _is_measured_so(session: DivergenceSession, stored: StoredSuite, case: Case) -> bool:
    """Whether a stored value was measured on this session's models, and as it asks for."""
    if case.kl is None or case.kl.metric != metric_for(session, case):
        return False
    return _is_of_these_models(session, stored)


def _is_of_these_models(session: DivergenceSession, stored: StoredSuite) -> bool:
    """Whether a suite was made with this session's models and the settings that matter."""
    provenance = stored.provenance
    if provenance is None:
        return False
    settings = session.resolved.settings.model_dump(include=set(SAME_SETTINGS))
    if any(provenance.settings.get(key, value) != value for key, value in settings.items()):
        return False
    written = (provenance.reference.weights_sha256, provenance.candidate.weights_sha256)
    return written == tuple(one.weights_sha256 for one in session.identities())
