"""Collection of `*.divergence.jsonl` files as items, and of their cases as test parameters.

Knows the items of a suite and the cases that a test runs on. Does not know what items assert
(`pytest_divergence.plugin.items`), nor which suites join a session
(`pytest_divergence.plugin.session`).
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence.core.behaviours import gates
from pytest_divergence.core.cases import Case
from pytest_divergence.core.file_names import SUITE_SUFFIX
from pytest_divergence.core.report import Report
from pytest_divergence.core.suites import (
    StoredSuite,
    list_suite,
    read_suite,
    suite_without_cases,
)
from pytest_divergence.plugin.aggregate_items import (
    AGGREGATE_ITEM,
    SHIFT_ITEM,
    AggregateItem,
    RowsItem,
    ShiftItem,
    has_aggregate,
)
from pytest_divergence.plugin.bounds import refuse_shift, suite_bounds
from pytest_divergence.plugin.items import BehaviourItem, CaseItem, SearchItem, SuiteModule
from pytest_divergence.plugin.markers import marker_arguments
from pytest_divergence.plugin.model_pairs import Models, has_own_pair
from pytest_divergence.plugin.notes import NO_CASE, SKIP_PREFIX
from pytest_divergence.plugin.reference_check import ReferenceCheck
from pytest_divergence.plugin.session import NO_MODELS, DivergenceSession, of
from pytest_divergence.plugin.text_items import TextBehaviourItem, TextCaseItem, TextRowsItem
from pytest_divergence.plugin.usage_errors import usage_errors

if TYPE_CHECKING:
    from pytest_divergence.discovery.run import SearchOutcome

CASE_SUITE = pytest.StashKey[Path]()
"""The suite that holds a test's case, in the test's stash."""


class SuiteFile(SuiteModule):
    """A suite in pytest's tree."""

    def collect(self) -> list[pytest.Item]:
        """Return one item per case, after the item `search` in a suite of this session's search."""
        session = of(self.config)
        session.is_used, plan = True, session.plan
        with usage_errors(session), _no_search_for_cycles():
            report = self._report(session)
            searched: list[pytest.Item] = []
            if report is not None:
                searched.append(SearchItem.make(self, report))
                if session.resolved.settings.max_shift is not None:
                    searched.append(ShiftItem.of_search(self, report))
            is_searched = report is not None
            if report is not None and not report.has_cases:
                stored = suite_without_cases(self.path)
                return [*searched, *self._behaviour_items(session, stored, is_searched=True)]
            if plan.action == "list":
                return self._listed(session)
            self.stored = read_suite(self.path)
            models = self._models(session)
            if models is not None and models.is_text_only and not is_searched:
                return self._text_items(session, models)
            if models is not None and not is_searched:
                self.stored = _with_noise_of_servers(session, self.stored, models)
            if not is_searched and models is not None and not plan.is_rewriting:
                self.reference_check = ReferenceCheck(session, self.stored, models)
            return [
                *(searched or self._rows_items(session)),
                *self._behaviour_items(session, self.stored, is_searched=is_searched),
                *self._case_items(session, is_searched=is_searched),
            ]

    def _text_items(self, session: DivergenceSession, models: Models) -> list[pytest.Item]:
        """Return the items of a replay on a model that is known by its texts alone."""
        _refuse_rewriting(session, self.stored)
        refuse_shift(session, self.path)
        if session.plan.process != "worker":
            session.pairs.check(models)
        made, suite = self.stored.provenance, self.stored.suite
        fail_on = session.resolved.settings.fail_on
        return [
            *([TextRowsItem.make(self)] if suite.rows else []),
            *(
                TextBehaviourItem.make(self, behaviour)
                for behaviour in (made.behaviours if made is not None else ())
                if gates(behaviour, fail_on)
            ),
            *(TextCaseItem.make(self, case) for case in suite.cases),
        ]

    def begin(self, session: DivergenceSession) -> StoredSuite:
        """Return the suite with the rows whose bounds count in this session: all of them."""
        return self.stored

    def case_item(
        self, case: Case, bounds: Mapping[str, float], *, is_searched: bool
    ) -> pytest.Item:
        """Return the item for a row."""
        return CaseItem.make(self, case, bounds[case.id], is_searched=is_searched)

    def _listed(self, session: DivergenceSession) -> list[pytest.Item]:
        """Return the items of a session that only lists, without keeping the rows in memory."""
        stored = list_suite(self.path)
        lines, _ = stored.suite.lines, self._models(session)  # a wrong line of pairs raises
        return [
            *(kind.of_rows(self, name) for name, kind in _rows_kinds(session, stored).items()),
            *self._behaviour_items(session, stored, is_searched=False),
            *(CaseItem.listed(self, case, lines[case.id]) for case in stored.suite.cases),
        ]

    def _report(self, session: DivergenceSession) -> Report | None:
        """Return the report of this session's search, if that search wrote this suite."""
        if not session.has_search or self.path != session.own_suite:
            return None
        return session.outcome().report

    def _behaviour_items(
        self, session: DivergenceSession, stored: StoredSuite, *, is_searched: bool
    ) -> list[pytest.Item]:
        if stored.provenance is None:
            return []
        fail_on = session.resolved.settings.fail_on
        return [
            BehaviourItem.make(self, behaviour, is_searched=is_searched)
            for behaviour in stored.provenance.behaviours
            if gates(behaviour, fail_on)
        ]

    def _rows_items(self, session: DivergenceSession) -> list[pytest.Item]:
        """Return the items about all rows of a replayed suite."""
        kinds = _rows_kinds(session, self.stored)
        return [kind.of_rows(self, name) for name, kind in kinds.items()]

    def _case_items(self, session: DivergenceSession, *, is_searched: bool) -> list[pytest.Item]:
        bounds = suite_bounds(session, self.path, self.begin(session))
        if not (is_searched or has_own_pair(self)):
            models = session.models_for(self.path)
            if models is None:
                raise pytest.UsageError(f"replaying {session.shown(self.path)} {NO_MODELS}")
            if session.plan.process != "worker":  # workers without our items need no torch
                session.pairs.check(models)

        cases = self.stored.suite.cases
        return [self.case_item(case, bounds, is_searched=is_searched) for case in cases]

    def _models(self, session: DivergenceSession) -> Models | None:
        """Return the named models to replay the suite on; None if a conftest provides a pair."""
        return None if has_own_pair(self) else session.models_for(self.path)


def _with_noise_of_servers(
    session: DivergenceSession, stored: StoredSuite, models: Models
) -> StoredSuite:
    """Return the suite with the larger noise floor, its own or that of the pair's servers."""
    if not models.is_partial:
        return stored
    _refuse_rewriting(session, stored)
    floor, made = session.pairs.served_floor(models), stored.provenance
    if made is None or floor is None:
        return stored
    if made.noise_floor is not None and made.noise_floor.value >= floor.value:
        return stored
    return replace(stored, provenance=made.model_copy(update={"noise_floor": floor}))


def _refuse_rewriting(session: DivergenceSession, stored: StoredSuite) -> None:
    if session.plan.is_rewriting:
        raise pytest.UsageError(
            f"{session.shown(stored.suite.path)} cannot be measured again on a served or recorded "
            "model, which does not tell whole distributions; name the weights as a folder or Hub id"
        )


def _rows_kinds(session: DivergenceSession, stored: StoredSuite) -> dict[str, type[RowsItem]]:
    """Return the kinds of items about all rows that a replayed suite has, by name."""
    kinds: dict[str, type[RowsItem]] = {}
    if session.plan.rewrites is not None:  # rows that are about to change are not judged
        return kinds
    if has_aggregate(stored):
        kinds[AGGREGATE_ITEM] = AggregateItem
    if session.resolved.settings.max_shift is not None:
        kinds[SHIFT_ITEM] = ShiftItem
    return kinds


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Pause the garbage collector, which would take as long as reading thousands of rows.

    Rows form no cycles, so it would find nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True)
class SuiteCase:
    """A case, and the suite that holds it."""

    case: Case
    suite: Path


@dataclass(frozen=True)
class NoCase:
    """The parameter of a test whose marker matches no case: an error rather than a skip."""

    reason: str


def cases_for(session: DivergenceSession, test: pytest.Item) -> list[SuiteCase]:
    """Return the cases that a test runs on, filtered by its markers. Raises UsageError.

    They are sorted by suite, so that each pair of models is loaded once, and then by id.
    """
    with usage_errors(session):
        filters = marker_arguments(test)
    chosen = everything = session_cases(session)
    for wanted in filters:
        ids = wanted.get("id")
        ids = [ids] if isinstance(ids, str) else ids
        chosen = [
            entry
            for entry in chosen
            if (ids is None or entry.case.id in ids)
            and wanted.get("behaviour") in (None, entry.case.behaviour)
        ]
        if (limit := wanted.get("limit")) is not None:
            chosen = sorted(chosen, key=_descending_kl)[:limit]
    suites = list(dict.fromkeys(entry.suite for entry in everything))
    return sorted(chosen, key=lambda entry: (suites.index(entry.suite), entry.case.id))


def _descending_kl(entry: SuiteCase) -> float:
    return -entry.case.kl.value if entry.case.kl else 0.0


def session_cases(session: DivergenceSession) -> list[SuiteCase]:
    """Return the cases of the named suites in a replay, else of the search. Raises UsageError."""
    session.is_used = True
    with usage_errors(session):
        paths = list(session.plan.suites)
        if session.plan.action == "search":
            paths = [session.own_suite] if search_outcome(session).report.has_cases else []
        elif not paths and session.own_suite.is_file():
            paths = [session.own_suite]
        elif not paths and session.plan.action != "list":
            raise nothing_to_replay(session)
        read = list_suite if session.plan.action == "list" else read_suite
        return [SuiteCase(case, path) for path in paths for case in read(path).suite.cases]


def nothing_to_replay(session: DivergenceSession) -> pytest.UsageError:
    """Return the error that ends a replay without a suite."""
    is_ci = session.resolved.settings.mode == "auto"
    why = ", and in CI a search runs only if you ask for it" if is_ci else ""
    return pytest.UsageError(
        f"there is no suite to replay: no *{SUITE_SUFFIX} is given and "
        f"{session.shown(session.own_suite)} does not exist{why}; commit a suite and name it, or "
        "search with --divergence-mode=search"
    )


def search_outcome(session: DivergenceSession) -> SearchOutcome:
    """Return the outcome of this session's search. Raises UsageError in a replay."""
    if session.has_models and session.plan.action != "search":
        raise pytest.UsageError(
            "this needs a search, but this session only replays; add --divergence-mode=search"
        )
    return session.outcome()


def parametrize(metafunc: pytest.Metafunc, session: DivergenceSession) -> None:
    """Run a test that uses `divergence_case` once per case; our id comes first in brackets."""
    try:
        params = _params(metafunc, session)
    except pytest.UsageError:
        if session.plan.process == "worker":
            raise
        params = []  # `session.error` ends the session once this file is collected
    metafunc.parametrize("divergence_case", params, indirect=True)


def _params(metafunc: pytest.Metafunc, session: DivergenceSession) -> list[Any]:
    is_off = session.plan.action == "nothing"
    if is_off or not (session.has_models or session.plan.suites):
        why = "--divergence-mode=off" if is_off else f"divergence_case {NO_MODELS}"
        return [_skipped("unconfigured", why)]
    cases = cases_for(session, metafunc.definition)
    if not cases and session.plan.action == "list":
        return [_skipped("pending", "no search has run yet")]
    if not cases and session_cases(session):
        return [pytest.param(_no_case(metafunc), id="none")]
    if not cases:
        why = NO_CASE if session.has_whole_search else "the search did not finish"
        return [_skipped("none", why)]
    times = Counter(entry.case.id for entry in cases)
    return [
        pytest.param(
            entry,
            id=case.id if times[case.id] == 1 else with_suite(entry.suite, case.id),
            marks=pytest.mark.divergence(id=case.id, behaviour=case.behaviour),
        )
        for entry in cases
        for case in (entry.case,)
    ]


def with_suite(suite: Path, case_id: str) -> str:
    """Return the id of a case whose prompt is in two suites of the session."""
    return f"{suite.name.removesuffix(SUITE_SUFFIX)}-{case_id}"


def _no_case(metafunc: pytest.Metafunc) -> NoCase:
    filters = marker_arguments(metafunc.definition)
    given = ", ".join(f"{key}={value!r}" for wanted in filters for key, value in wanted.items())
    return NoCase(
        f"no case of this session matches this test's marker, divergence({given}), so the test "
        "would check nothing; correct the marker, or name a suite that has such cases"
    )


def _skipped(name: str, why: str) -> Any:
    return pytest.param(None, id=name, marks=pytest.mark.skip(reason=SKIP_PREFIX + why))
