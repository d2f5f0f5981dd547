"""`*.divergence.jsonl` files become pytest items.

Knows what an item asserts. Does not know how a prompt is measured (`pytest_divergence.scoring`)
or found, nor which suites take part (`pytest_divergence.participation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence.measuring import (
    Reading,
    answers_of,
    metric_for,
    noise_floor_of,
    note,
    sizes_for,
    suite_bounds,
)
from pytest_divergence.session import NO_MODELS, REPORT_KEY, DivergenceSession, of
from pytest_divergence.stored import read_suite

if TYPE_CHECKING:
    from pytest_divergence.core.behaviours import Behaviour
    from pytest_divergence.core.cases import Case
    from pytest_divergence.core.report import Report, TokenComparison
    from pytest_divergence.models.pair import ModelPair
    from pytest_divergence.stored import StoredSuite

SEARCH_ITEM = "search"
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

        return [
            CaseItem.make(self, case, stored, bounds.get(case.id, 0.0), is_carried)
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


def check(_divergence_setup: SuiteItem) -> None:
    """What every item of a suite calls: measured in setup, judged here."""
    _divergence_setup.judge()


class SuiteItem(pytest.Function):
    """An item of a suite: a function to pytest, so that fixtures and other plugins work."""

    line: int

    @classmethod
    def named(cls, parent: SuiteFile, name: str, line: int) -> Any:
        """An item called `name`, standing at a line of the suite."""
        item = cls.from_parent(parent, name=name, callobj=check)
        item.line = line
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Get what `judge` needs; failing here is an error, not a failed test."""
        raise NotImplementedError

    def judge(self) -> None:
        """Fail unless the item passes."""
        raise NotImplementedError

    def reportinfo(self) -> tuple[Path, int, str]:
        """The line of the suite, so that editors and CI point at it."""
        return self.path, self.line - 1, self.name


class CaseItem(SuiteItem):
    """Asserts that one case's divergence is within its bound."""

    case: Case
    stored: StoredSuite
    max_kl: float
    is_carried: Callable[[Case], bool]
    reading: Reading

    @classmethod
    def make(
        cls,
        parent: SuiteFile,
        case: Case,
        stored: StoredSuite,
        max_kl: float,
        is_carried: Callable[[Case], bool],
    ) -> CaseItem:
        """The item of one row."""
        item: CaseItem = cls.named(parent, case.id, stored.suite.lines[case.id])
        item.case, item.stored, item.max_kl, item.is_carried = case, stored, max_kl, is_carried
        item.add_marker(pytest.mark.divergence(id=case.id, behaviour=case.behaviour))
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Take the search's value, or replay the case on the session's models."""
        session = of(self.config)
        note(self, verdict="error")  # until it is measured
        with session.failures():
            if self.case.kl is not None and self.is_carried(self.case):
                self.reading = Reading(self.case.kl)
            else:
                self.reading = self._replayed(session, request)

    def judge(self) -> None:
        """Fail with prompt, answers and numbers where the value is over the bound."""
        from pytest_divergence.core.verdicts import judge
        from pytest_divergence.reports.terminal import failure_text

        reading, session = self.reading, of(self.config)
        verdict = judge(reading.measurement.value, self.max_kl)
        note(self, verdict=verdict, kl=reading.measurement.value, bound=self.max_kl)
        if verdict == "passed":
            return
        case = self.case
        if reading.completions is not None:
            case = case.with_changes(completions=reading.completions)
        text = failure_text(
            case,
            measurement=reading.measurement,
            max_kl=self.max_kl,
            noise_floor=noise_floor_of(self.stored.provenance),
            tokens=reading.tokens or self._searched_tokens(session),
            rerun=session.rerun(self.nodeid),
            suite=session.shown(self.path),
        )
        pytest.fail(text, pytrace=False)

    def _replayed(self, session: DivergenceSession, request: pytest.FixtureRequest) -> Reading:
        from pytest_divergence.core.verdicts import judge
        from pytest_divergence.scoring.replay import replay_case

        pair: ModelPair = request.getfixturevalue("model_pair")
        sizes = sizes_for(session, pair)
        replayed = replay_case(
            pair,
            self.case,
            self.stored.tokens.get(self.case.id),
            metric=metric_for(session, self.case),
            **sizes,
        )
        is_shown = judge(replayed.measurement.value, self.max_kl) == "failed"
        answers = answers_of(pair, self.case, sizes["max_new_tokens"]) if is_shown else None
        return Reading(replayed.measurement, replayed.tokens, answers)

    def _searched_tokens(self, session: DivergenceSession) -> Sequence[TokenComparison]:
        cases = session.report.cases if session.report is not None else []
        return next((case.tokens for case in cases if case.id == self.case.id), [])


class BehaviourItem(SuiteItem):
    """Fails while the candidate shows a behaviour that no one has accepted."""

    behaviour: Behaviour
    is_carried: Callable[[], bool]
    log_ratio: float | None

    @classmethod
    def make(
        cls, parent: SuiteFile, behaviour: Behaviour, is_carried: Callable[[], bool]
    ) -> BehaviourItem:
        """The item of one behaviour."""
        item: BehaviourItem = cls.named(parent, behaviour.id, 1)
        item.behaviour, item.is_carried = behaviour, is_carried
        item.add_marker(pytest.mark.divergence(behaviour=behaviour.id))
        return item

    @property
    def limit(self) -> float:
        """Half of what the telling continuation read when it was found, nats."""
        telling = self.behaviour.telling
        return telling.log_ratio / 2 if telling is not None else 0.0

    def measure(self, request: pytest.FixtureRequest) -> None:
        """What the search confirmed holds for the same models; others are measured anew."""
        from pytest_divergence.scoring.replay import replay_behaviour

        session = of(self.config)
        note(self, verdict="error", behaviour=self.behaviour.id)
        self.log_ratio = None
        with session.failures():
            if self.is_carried():
                return
            assert self.behaviour.telling is not None  # else no item is made
            pair: ModelPair = request.getfixturevalue("model_pair")
            self.log_ratio = replay_behaviour(pair, self.behaviour.telling)

    def judge(self) -> None:
        """Fail while it is there."""
        from pytest_divergence.reports.terminal import behaviour_text

        session = of(self.config)
        is_gone = self.log_ratio is not None and self.log_ratio < self.limit
        note(self, verdict="passed" if is_gone else "failed")
        if self.log_ratio is not None:
            note(self, log_ratio=self.log_ratio)
        if is_gone:
            return
        text = behaviour_text(
            self.behaviour,
            log_ratio=self.log_ratio,
            limit=self.limit,
            rerun=session.rerun(self.nodeid),
            suite=session.shown(self.path),
        )
        pytest.fail(text, pytrace=False)


class SearchItem(SuiteItem):
    """Passes only where the search of this session ran to its end without errors."""

    report: Report

    @classmethod
    def make(cls, parent: SuiteFile, report: Report) -> SearchItem:
        """The item of one search."""
        item: SearchItem = cls.named(parent, SEARCH_ITEM, 1)
        item.report = report
        item.add_marker(pytest.mark.divergence)
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """An incomplete search is an error: what it did not see never counts as a pass."""
        from pytest_divergence.core.safe_text import safe_line

        reasons = [f"{one.where}: {safe_line(one.message)}" for one in self.report.errors]
        if self.report.run.status != "complete":
            reasons.insert(0, "it stopped before it was complete")
        if reasons:
            note(self, verdict="error")
            pytest.fail(
                "the search cannot vouch for the models: " + "; ".join(reasons), pytrace=False
            )

    def judge(self) -> None:
        """Pass, and say what the search would have seen."""
        sentence = search_sentence(self.report)
        note(self, verdict="passed", search=sentence)
        self.add_report_section("call", "divergence", sentence)


def search_sentence(report: Report) -> str:
    """How much a search saw, and how rare a behaviour it would have missed."""
    over = sum(case.verdict == "failed" for case in report.cases)
    sentence = f"{report.effort.prompts_scored:,} prompts scored, {over} over the bound"
    shift = report.calibration.typical_shift
    if shift is None or shift.num_controls < 3:
        return sentence
    return (  # the rule of three: 0 of n seen means a rate of at most 3 / n, at 95 %
        f"{sentence}; a behaviour shown by more than 1 ordinary prompt in "
        f"{shift.num_controls // 3} would have been seen (95 %)"
    )
