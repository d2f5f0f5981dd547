"""Items of a suite on a model of which only the text is known: answers are compared, not measured.

Knows what each item says; does not know how answers are asked for and tested
(`pytest_divergence.plugin.text_replay`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import TEXT, Case, Completions
from pytest_divergence.core.redaction import redacted_behaviour, redacted_case
from pytest_divergence.core.report import Verdict
from pytest_divergence.plugin.aggregate_items import AGGREGATE_ITEM
from pytest_divergence.plugin.items import SuiteItem, SuiteModule
from pytest_divergence.plugin.notes import note
from pytest_divergence.plugin.replay_report import keep_behaviour, keep_case, keep_check
from pytest_divergence.plugin.session import of
from pytest_divergence.plugin.terminal import rerun
from pytest_divergence.plugin.usage_errors import failures
from pytest_divergence.reports.text_comparisons import (
    behaviour_sentence,
    behaviour_text,
    case_text,
    rows_text,
    text_sentence,
)

if TYPE_CHECKING:
    from pytest_divergence.plugin.text_replay import ComparedCase, CountedBehaviour
    from pytest_divergence.scoring.text_tests import TextTest


class TextCaseItem(SuiteItem):
    """Fails if the answers to one case's prompt differ."""

    case: Case
    compared: ComparedCase

    @classmethod
    def make(cls, parent: SuiteModule, case: Case) -> TextCaseItem:
        """Return the item for a row."""
        item: TextCaseItem = cls.named(parent, case.id, parent.stored.suite.lines[case.id])
        item.case = case
        item.add_marker(pytest.mark.divergence(id=case.id, behaviour=case.behaviour))
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Sample answers of both models, and test them."""
        note(self, kind="case", verdict="error", evidence=TEXT)  # until they are compared
        keep_case(self, self.case.with_changes(completions=None, kl=None))
        with failures(of(self.config)):
            self.compared = self.suite.replay.texts.case(self.pair(request), self.case)

    def judge(self) -> None:
        """Fail with prompt and answers if they differ."""
        session, test = of(self.config), self.compared.test
        verdict: Verdict = "failed" if test.differs else "passed"
        found = words(test)
        note(self, verdict=verdict, p_value=test.p_value, text=found)
        case, answers = self.case, self.compared.answers
        first = Completions(reference=answers[0][0], candidate=answers[1][0])
        kept = case.with_changes(completions=first if test.differs else None, kl=None)
        keep_case(self, kept, verdict=verdict, reason=found)
        if not test.differs:
            self.add_report_section("call", "divergence", found)
            return
        if session.is_redacted:
            case, answers = redacted_case(case), ([], [])
        text = case_text(found, case.text, answers, rerun=rerun(session, self.nodeid))
        pytest.fail(text, pytrace=False)


class TextRowsItem(SuiteItem):
    """Fails if the answers to all rows' prompts together differ."""

    test: TextTest

    @classmethod
    def make(cls, parent: SuiteModule) -> TextRowsItem:
        """Return the item for all rows."""
        item: TextRowsItem = cls.named(parent, AGGREGATE_ITEM, 1)
        item.add_marker(pytest.mark.divergence)
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Sample answers of both models to every row, and test them together."""
        note(self, kind=AGGREGATE_ITEM, verdict="error", evidence=TEXT)
        keep_check(self)
        with failures(of(self.config)):
            self.test = self.suite.replay.texts.rows(self.pair(request))

    def judge(self) -> None:
        """Fail if they differ."""
        session, found = of(self.config), words(self.test)
        verdict: Verdict = "failed" if self.test.differs else "passed"
        note(self, verdict=verdict, p_value=self.test.p_value, text=found)
        keep_check(self, verdict, found)
        if self.test.differs:
            pytest.fail(rows_text(found, rerun=rerun(session, self.nodeid)), pytrace=False)
        self.add_report_section("call", "divergence", found)


class TextBehaviourItem(SuiteItem):
    """Fails while the candidate's answers show a behaviour that nobody has accepted."""

    behaviour: Behaviour
    counted: CountedBehaviour

    @classmethod
    def make(cls, parent: SuiteModule, behaviour: Behaviour) -> TextBehaviourItem:
        """Return the item for a behaviour."""
        item: TextBehaviourItem = cls.named(parent, behaviour.id, 1)
        item.behaviour = behaviour
        item.add_marker(pytest.mark.divergence(behaviour=behaviour.id))
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Sample answers of both models to the prompts that showed it, and count."""
        named = self.behaviour.id
        note(self, kind="behaviour", verdict="error", behaviour=named, evidence=TEXT)
        keep_check(self)
        with failures(of(self.config)):
            self.counted = self.suite.replay.texts.behaviour(self.pair(request), self.behaviour)

    def judge(self) -> None:
        """Fail while the candidate shows it more often than the reference."""
        session, counted = of(self.config), self.counted
        found = behaviour_sentence(
            candidate_count=counted.candidate_count,
            reference_count=counted.reference_count,
            num_answers=counted.num_answers,
            p_value=counted.p_value,
        )
        verdict = "passed" if counted.is_gone else "failed"
        note(self, verdict=verdict, p_value=counted.p_value, text=found)
        if counted.is_gone:
            keep_check(self, "passed", found)
            self.add_report_section("call", "divergence", found)
            return
        keep_behaviour(self, self.behaviour)
        shown = redacted_behaviour(self.behaviour) if session.is_redacted else self.behaviour
        text = behaviour_text(
            shown, found, rerun=rerun(session, self.nodeid), suite=session.shown(self.path)
        )
        pytest.fail(text, pytrace=False)


def words(test: TextTest) -> str:
    """Return the sentence on a test."""
    return text_sentence(
        p_value=test.p_value,
        level=test.level,
        num_answers=test.num_answers,
        detectable=test.detectable,
    )
