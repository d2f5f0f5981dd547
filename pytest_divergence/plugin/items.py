"""Items of a suite: cases, behaviours, and the search that found them.

Knows what an item measures in setup and judges in its call. Does not know how a prompt is measured
(`pytest_divergence.scoring`), nor which items a suite has (`pytest_divergence.plugin.collection`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_divergence.core.behaviours import Behaviour, Retelling
from pytest_divergence.core.cases import Case, Completions, Measurement
from pytest_divergence.core.redaction import redacted_behaviour
from pytest_divergence.core.report import Report, TokenComparison
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.core.verdicts import judge
from pytest_divergence.plugin._compat import FixtureInfo, fixture_info
from pytest_divergence.plugin.bounds import noise_floor_of
from pytest_divergence.plugin.extensions import own_pair
from pytest_divergence.plugin.gaps import SEARCH_ITEM, reason_against
from pytest_divergence.plugin.model_pairs import has_own_pair
from pytest_divergence.plugin.notes import note
from pytest_divergence.plugin.reference_check import ReferenceCheck
from pytest_divergence.plugin.replay_report import keep_behaviour, keep_case, keep_check
from pytest_divergence.plugin.session import DivergenceSession, of
from pytest_divergence.plugin.terminal import rerun, update_command
from pytest_divergence.plugin.usage_errors import failures, shown_case
from pytest_divergence.reports import wording
from pytest_divergence.reports.failures import behaviour_text, failure_text

if TYPE_CHECKING:
    from pytest_divergence.models.pair import ModelPair
    from pytest_divergence.plugin.replay import SuiteReplay

GONE = "the candidate no longer shows it"


def check(_divergence_setup: SuiteItem) -> None:
    """Judge an item that was measured in setup: the function that every item of a suite calls."""
    _divergence_setup.judge()


class SuiteModule(pytest.Module):
    """The parent of a suite's items: a module, so that module-scoped fixtures have a place."""

    obj = None
    stored: StoredSuite
    make_replay: Callable[[DivergenceSession, StoredSuite], SuiteReplay]
    """Passed in, because it imports torch, which a process that measures nothing does not need."""
    fixtureinfo: FixtureInfo | None = None
    """pytest's data on the fixtures of each item: they all call one function."""
    reference_check: ReferenceCheck | None = None
    """Set for a suite that is replayed on named models."""

    @cached_property
    def replay(self) -> SuiteReplay:
        """The replay of the suite's rows in this session."""
        return self.make_replay(of(self.config), self.stored)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show an unusable suite as one line, without a traceback."""
        if isinstance(excinfo.value, pytest.UsageError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


class SuiteItem(pytest.Function):
    """An item of a suite: a function to pytest, so that fixtures and other plugins work."""

    line: int
    suite: SuiteModule

    @classmethod
    def named(cls, parent: SuiteModule, name: str, line: int) -> Any:
        """Return an item called `name` at a line of the suite."""
        shared = parent.fixtureinfo
        item = cls.from_parent(parent, name=name, callobj=check, fixtureinfo=shared)
        parent.fixtureinfo = fixture_info(item)
        item.line, item.suite = line, parent
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Measure what `judge` needs; failing here is an error, not a failed test."""
        raise NotImplementedError

    def judge(self) -> None:
        """Fail unless the item passes."""
        raise NotImplementedError

    def pair(self, request: pytest.FixtureRequest) -> ModelPair:
        """Return the models to measure this item on; call it only if a value is missing."""
        session, suite = of(self.config), self.suite
        if has_own_pair(self):
            pair = own_pair(request)
        else:
            if suite.reference_check is not None:
                suite.reference_check.warn(self)
            pair = session.pair_for(request, session.models_for(self.path))
        made = suite.stored.provenance
        if made is not None and made.dtype != pair.dtype_name:
            note(self, other_dtype=f"in {made.dtype}, these values in {pair.dtype_name}")
        return pair

    @property
    def is_partial(self) -> bool:
        """Whether only parts of a model are told: then no suite is measured again."""
        models = None if has_own_pair(self) else of(self.config).models_for(self.path)
        return models is not None and models.is_partial

    def forget(self) -> None:
        """Release the models once the item is done: another pair may be next."""

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return the line of the suite, so that editors and CI point at it."""
        return self.path, self.line - 1, self.name


class Measured(Protocol):
    """A measurement to judge; tokens and completions cost forward passes, so only failures ask."""

    pair: ModelPair | None
    """The models that it was measured on; None: not measured in this session."""

    @property
    def measurement(self) -> Measurement:
        """The divergences."""

    def tokens(self) -> Sequence[TokenComparison]:
        """Compare both models at each token of the candidate's answer."""

    def completions(self) -> Completions | None:
        """Return the answers of both models."""


class Carried:
    """A value that this session's search measured."""

    def __init__(self, case: Case, tokens: Sequence[TokenComparison]) -> None:
        """Take the case's value; `tokens` are the report's, if there is one."""
        assert case.kl is not None  # only cases with a value are carried
        self.measurement = case.kl
        self.pair: ModelPair | None = None
        self._case, self._tokens = case, tokens

    def tokens(self) -> Sequence[TokenComparison]:
        """Return the search's comparison."""
        return self._tokens

    def completions(self) -> Completions | None:
        """Return the answers in the suite."""
        return self._case.completions


class CaseItem(SuiteItem):
    """Asserts that one case's divergence is within its bound."""

    case: Case
    max_kl: float
    is_searched: bool
    """Whether this session's search has measured it."""
    reading: Measured

    @classmethod
    def make(cls, parent: SuiteModule, case: Case, max_kl: float, *, is_searched: bool) -> CaseItem:
        """Return the item for a row."""
        item = cls.listed(parent, case, parent.stored.suite.lines[case.id])
        item.case, item.max_kl, item.is_searched = case, max_kl, is_searched
        return item

    @classmethod
    def listed(cls, parent: SuiteModule, case: Case, line: int) -> CaseItem:
        """Return the item of a session that only lists, without keeping the row in memory."""
        item: CaseItem = cls.named(parent, case.id, line)
        item.add_marker(pytest.mark.divergence(id=case.id, behaviour=case.behaviour))
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Take the search's value, or replay the case on the session's models."""
        session = of(self.config)
        note(self, kind="case", verdict="error", bound=self.max_kl)  # until measured
        if self.case.behaviour is not None:
            note(self, behaviour=self.case.behaviour)
        keep_case(self, self.case.with_changes(completions=None), max_kl=self.max_kl)
        with failures(session):
            if self.has_value:
                self.reading = Carried(self.case, self._searched_tokens(session))
            else:
                self.reading = self.suite.replay.of(  # a variable for the pair would keep it alive
                    self.pair(request), self.case, wanted=self._wanted()
                )

    def forget(self) -> None:
        """Drop the measurement, which holds the models to compute answers and tokens on request."""
        vars(self).pop("reading", None)

    def judge(self) -> None:
        """Fail with prompt, answers and numbers if the value is over the bound."""
        reading, session = self.reading, of(self.config)
        found = reading.measurement
        verdict = judge(found.value, self.max_kl)
        note(self, verdict=verdict, kl=found.value, metric=found.metric, unit=found.unit)
        keep = partial(
            keep_case,
            self,
            verdict=verdict,
            measurement=reading.measurement,
            max_kl=self.max_kl,
            pair=reading.pair,
        )
        if verdict == "passed":
            keep(self.case.with_changes(completions=None))
            return
        answered, tokens = (
            self.case.with_changes(completions=reading.completions()),
            reading.tokens(),
        )
        keep(answered, tokens=tokens)
        case, tokens = shown_case(session, answered, tokens)
        text = failure_text(
            case,
            measurement=reading.measurement,
            max_kl=self.max_kl,
            noise_floor=noise_floor_of(self.suite.stored.provenance, reading.measurement.metric),
            tokens=tokens,
            rerun=rerun(session, self.nodeid),
            suite=session.shown(self.path),
            update=None if self.is_partial else update_command(session, self.nodeid),
            verbosity=self.config.get_verbosity(),
        )
        pytest.fail(text, pytrace=False)

    def _wanted(self) -> list[Case]:
        """Return the suite's cases that this session measures too: they share forward passes."""
        items = (item for item in self.session.items if isinstance(item, CaseItem))
        return [item.case for item in items if item.suite is self.suite and not item.has_value]

    @property
    def has_value(self) -> bool:
        """Whether the row's own value counts, because this session's search has measured it."""
        return self.case.kl is not None and self.is_searched

    def _searched_tokens(self, session: DivergenceSession) -> Sequence[TokenComparison]:
        cases = session.report.cases if session.report is not None else []
        return next((case.tokens for case in cases if case.id == self.case.id), [])


class BehaviourItem(SuiteItem):
    """Fails while the candidate shows a behaviour that nobody has accepted."""

    behaviour: Behaviour
    is_searched: bool
    """Whether this session's search has confirmed it."""
    retelling: Retelling | None
    """A replay's measurement; None after a search."""

    @classmethod
    def make(cls, parent: SuiteModule, behaviour: Behaviour, *, is_searched: bool) -> BehaviourItem:
        """Return the item for a behaviour."""
        item: BehaviourItem = cls.named(parent, behaviour.id, 1)
        item.behaviour, item.is_searched = behaviour, is_searched
        item.add_marker(pytest.mark.divergence(behaviour=behaviour.id))
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Measure a suite's behaviour again, unless this session's search confirmed it."""
        session = of(self.config)
        note(self, kind="behaviour", verdict="error", behaviour=self.behaviour.id)
        keep_check(self)
        self.retelling = None
        with failures(session):
            if not self.is_searched:
                telling = self.behaviour.telling
                self.retelling = self.suite.replay.behaviour(self.pair(request), telling)

    def judge(self) -> None:
        """Fail while the candidate shows it."""
        session, found = of(self.config), self.retelling
        is_gone = found is not None and found.is_gone
        note(self, verdict="passed" if is_gone else "failed")
        if found is not None:
            note(self, log_ratio=found.log_ratio, bound=found.limit, unit="nats")
        if is_gone:
            keep_check(self, "passed", GONE)
            return
        keep_behaviour(self, self.behaviour)
        text = behaviour_text(
            redacted_behaviour(self.behaviour) if session.is_redacted else self.behaviour,
            retelling=found,
            rerun=rerun(session, self.nodeid),
            suite=session.shown(self.path),
        )
        pytest.fail(text, pytrace=False)


class SearchItem(SuiteItem):
    """Passes only if the search of this session finished without errors."""

    report: Report

    @classmethod
    def make(cls, parent: SuiteModule, report: Report) -> SearchItem:
        """Return the item for a search."""
        item: SearchItem = cls.named(parent, SEARCH_ITEM, 1)
        item.report = report
        item.add_marker(pytest.mark.divergence)
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Fail if the search is incomplete: what it did not see never counts as a pass."""
        note(self, kind="search", verdict="error")
        if reason := reason_against(self.report):
            pytest.fail(reason, pytrace=False)

    def judge(self) -> None:
        """Pass, and say which leads the search would have confirmed."""
        sentence = search_sentence(self.report)
        note(self, verdict="passed", search=sentence)
        self.add_report_section("call", "divergence", sentence)


def search_sentence(report: Report) -> str:
    """Return the sentence on how much a search saw, and which leads its tests would confirm."""
    over = sum(case.verdict == "failed" for case in report.cases)
    sentence = f"{report.effort.prompts_scored:,} prompts scored, {over} over the bound"
    parts = (sentence, wording.judged(report), wording.power_in_short(report))
    return "; ".join(part for part in parts if part is not None)
