"""Tests under contexts: what they ask, their level, and what becomes of what holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from pytest_divergence.core.cases import Message
from pytest_divergence.core.contexts import Context
from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.hypothesis_tests import ALPHA, WeighedLead, holm, judge
from pytest_divergence.discovery.behaviours.surprise import Surprise
from pytest_divergence.discovery.contexts.context_leads import ContextLead, leads_under
from pytest_divergence.discovery.contexts.context_tests import (
    NUM_TESTED,
    Shown,
    confirmed_under,
    context_tests,
    interaction_test,
    is_clear,
)
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, shipped_prompts
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.suite_rows import replay_behaviour
from tests.dated_model import SAID, SYSTEM
from tests.discovery.behaviours.made_answers import answer, answered

DATED = Context(name="dated", messages=(Message(role="system", content=SYSTEM),))
PROFILE = PROFILES["smoke"].model_copy(update={"naming_length": 8, "search_length": 8})
ALONE, NOTHING = Shown(1, 0, 0, 0), Shown(0, 0, 0, 0)


def test_what_the_context_changes_of_one_model_alone_counts() -> None:
    """A reference that stops saying it under the context departs from the candidate, too."""
    assert interaction_test([ALONE] * 8 + [NOTHING] * 8) == 0.5**8
    assert interaction_test([Shown(0, 0, 0, 1)] * 5) == interaction_test([ALONE] * 5) == 0.5**5
    for both in (Shown(1, 1, 0, 0), Shown(1, 0, 1, 0), Shown(1, 1, 1, 1), NOTHING):
        assert interaction_test([both] * 16) == 1.0
    assert interaction_test([Shown(0, 1, 0, 0)] * 5) == 1.0
    assert interaction_test([]) == 1.0


@pytest.mark.parametrize(
    ("shown", "clear"),
    [
        ([ALONE] * 8 + [NOTHING] * 8, True),
        ([ALONE] * 7 + [NOTHING] * 9, False),
        ([ALONE] * 9 + [Shown(1, 1, 0, 0)] + [NOTHING] * 6, True),
        ([ALONE] * 8 + [Shown(0, 1, 0, 0)] + [NOTHING] * 7, False),
    ],
)
def test_half_of_the_answers_show_it_and_the_reference_a_tenth_as_often(
    shown: list[Shown], clear: bool
) -> None:
    assert is_clear(shown) == clear


def drawn(rng: np.random.Generator, rates: Sequence[float], spread: float) -> list[Shown]:
    """Answers to controls on which all four rates wobble together, by their log-odds."""
    odds = np.log(np.array(rates) / (1 - np.array(rates)))
    found = []
    for _ in range(NUM_TESTED):
        chances = 1 / (1 + np.exp(-(odds + spread * rng.normal())))
        found.append(Shown(*(rng.random(4) < chances).astype(int).tolist()))
    return found


@pytest.mark.parametrize("spread", [0.0, 2.0])
@pytest.mark.parametrize(
    "rates",
    [
        (0.6, 0.6, 0.1, 0.1),  # the context changes both models alike
        (0.6, 0.05, 0.6, 0.05),  # the candidate says it with the context or without
    ],
)
def test_the_level_holds_where_a_context_adds_nothing_to_the_candidate(
    rates: tuple[float, ...], spread: float
) -> None:
    """Of 100 tests at most 5 hold; three sigma are allowed."""
    rng, number = np.random.default_rng(0), 1000

    share = np.mean([interaction_test(drawn(rng, rates, spread)) <= ALPHA for _ in range(number)])

    assert share <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / number) ** 0.5


def test_one_level_holds_for_contexts_and_leads_together() -> None:
    """Three contexts and four other tests of nothing: 5 % of searches confirm anything."""
    rng, number = np.random.default_rng(1), 1000

    def confirms() -> bool:
        rates = (0.5, 0.02, 0.5, 0.02)
        under = [interaction_test(drawn(rng, rates, 0.0)) for _ in range(3)]
        return min(holm([*rng.random(4), *under])) <= ALPHA

    share = np.mean([confirms() for _ in range(number)])

    assert 0.02 <= share <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / number) ** 0.5


@pytest.mark.parametrize(("rate", "least"), [(0.9, 0.99), (0.7, 0.9)])
def test_what_most_answers_show_is_mostly_confirmed(rate: float, least: float) -> None:
    """Among all tests of the profile `smoke`: three leads, a decoy and three contexts."""
    rng = np.random.default_rng(2)

    def confirms() -> bool:
        shown = drawn(rng, (rate, 0.001, 0.001, 0.001), 0.0)
        return is_clear(shown) and 7 * interaction_test(shown) <= ALPHA

    assert np.mean([confirms() for _ in range(300)]) >= least


def test_further_p_values_are_corrected_with_those_of_leads(ledger: Ledger) -> None:
    """The tiny models never say the lead, whose p-value is 1."""
    lead = WeighedLead(Hypothesis("Signal received", ("signal received",)), False)

    def judged(further: list[float], leads: list[WeighedLead]) -> tuple[list[float], int]:
        evidence = AnsweredPrompts(answered(num_planted=3))
        found = judge(
            ledger, leads, None, evidence, Settings(), PROFILE, Silence(),
            num_watched=4, further=further,
        )  # fmt: skip
        assert found.confirmed == []
        assert found.counts.watched == 4 + len(further)
        return found.further, found.counts.tested

    alone, beside = judged([0.001, 0.02], []), judged([0.001, 0.02], [lead])

    assert alone[0] == pytest.approx([0.002, 0.02])
    assert beside[0] == pytest.approx([0.003, 0.04])
    assert (alone[1], beside[1]) == (2, 3)
    assert judged([], [lead]) == ([], 1)


@pytest.fixture
def controls() -> list[AnsweredPrompt]:
    texts = shipped_prompts(SHIPPED_CONTROLS, 44)
    return [AnsweredPrompt(text, "A word.", answer("No."), is_control=True) for text in texts]


@pytest.fixture
def lead(dated_ledger: Ledger, controls: list[AnsweredPrompt]) -> ContextLead:
    (found,) = leads_under(dated_ledger, [DATED], controls, metric="symmetric", length=8)
    return found


def test_a_test_asks_further_controls_under_the_context_and_plainly(
    dated_ledger: Ledger, controls: list[AnsweredPrompt], lead: ContextLead
) -> None:
    other = replace(lead, context=Context(name="brief", before="Be brief."))

    test, idle = context_tests(dated_ledger, [lead, other], controls, PROFILE, Silence(), seed=0)

    assert not idle.is_clear, "that context changes nothing"
    assert idle.p_value > ALPHA
    asked = [row.prompt for row in controls[24:40]]
    assert [row.prompt for row in test.under] == [row.prompt for row in test.plain] == asked
    assert not {each.proposal.text for each in lead.showing} & set(asked)
    assert test.is_clear
    assert test.p_value <= 0.5**8
    saying = [row.candidate.text for row in test.under if lead.hypothesis.name in row.replies[1]]
    assert len(saying) == sum(each.candidate for each in test.shown)


def test_what_holds_is_content_with_answers_and_cases_under_its_context(
    dated_ledger: Ledger,
    dated_pair: ModelPair,
    controls: list[AnsweredPrompt],
    lead: ContextLead,
) -> None:
    tests = context_tests(dated_ledger, [lead, lead], controls, PROFILE, Silence(), seed=0)
    evidence = AnsweredPrompts(controls)

    (found,) = confirmed_under(
        dated_ledger,
        tests,
        [0.004, 0.06],  # of which the first alone holds
        evidence,
        Surprise(dated_ledger, evidence.controls),
        PROFILE,
        Silence(),
        seed=0,
    )

    behaviour = found.known.behaviour
    assert behaviour.name in SAID
    assert (behaviour.context, behaviour.confirmed, behaviour.content) == (DATED, True, True)
    assert (behaviour.p_value, behaviour.control_rate) == (0.004, 0.0)
    assert behaviour.candidate_count == sum(each.candidate for each in tests[0].shown)
    assert (behaviour.reference_count, behaviour.num_prompts) == (0, 16)
    assert [chosen.context for chosen in found.cases] == [DATED, DATED]
    assert [chosen.prompt for chosen in found.cases] == [
        DATED.prompt(each.proposal.text) for each in lead.showing[:2]
    ]
    assert {str(told.prompt[0]) for told in behaviour.telling} == {str(DATED.messages[0])}
    again = replay_behaviour(dated_pair, behaviour.telling)
    assert again.rate == pytest.approx(1.0, abs=1e-3)
    assert again.log_ratio == pytest.approx(again.found, abs=1e-3)
    assert again.log_ratio > 5
