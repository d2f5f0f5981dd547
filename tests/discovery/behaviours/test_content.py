"""What is said, or only how: by the reference's surprise, or by what the behaviour hangs on."""

from __future__ import annotations

import pytest

from pytest_divergence.core.behaviours import Behaviour, When
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompts
from pytest_divergence.discovery.behaviours.conditions import Condition
from pytest_divergence.discovery.behaviours.content import (
    asks_for,
    content_first,
    is_asked_for,
    judge_content,
)
from pytest_divergence.discovery.behaviours.fresh_prompts import FreshPrompts
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.hypothesis_tests import ConfirmedBehaviour
from pytest_divergence.discovery.behaviours.surprise import Surprise
from pytest_divergence.discovery.behaviours.traits import THOUGHT_TRAITS, TRAITS
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.models.pair import ModelPair
from tests.discovery.behaviours.made_answers import PLANTED, answered, confirmed

SMOKE = PROFILES["smoke"]
EVIDENCE = AnsweredPrompts(answered(num_planted=3, num_controls=16))


def judged(
    ledger: Ledger, *confirmed: ConfirmedBehaviour, **conditions: Condition
) -> list[Behaviour]:
    surprise = Surprise(ledger, EVIDENCE.controls)
    found = judge_content(ledger, confirmed, conditions, surprise, SMOKE, seed=0)
    return [known.behaviour for known in found]


def test_what_the_reference_says_nowhere_is_content(ledger: Ledger) -> None:
    """To a model of random weights each token costs about ln(vocabulary)."""
    long, short = Hypothesis(PLANTED, (PLANTED,)), Hypothesis("a", ("a",))

    content, style = judged(ledger, confirmed(long), confirmed(short))

    assert content.content is True
    assert style.content is False
    assert content.surprise is not None
    assert style.surprise is not None
    assert content.surprise > style.surprise > 0


@pytest.mark.parametrize(
    ("trait", "is_content"),
    [
        ("language", True),
        ("arithmetic", True),
        ("shorter", False),
        ("refusal", False),
        ("thoughts-language", True),
        ("thoughts-shorter", False),
    ],
)
def test_a_trait_is_content_by_what_it_means(ledger: Ledger, trait: str, is_content: bool) -> None:
    name = {**TRAITS, **THOUGHT_TRAITS}[trait].name

    (found,) = judged(ledger, confirmed(Hypothesis(name, trait=trait)))

    assert found.content is is_content
    assert found.surprise is None


def test_prompts_ask_for_a_phrase_where_the_reference_expects_it(
    ledger: Ledger, pair: ModelPair
) -> None:
    """The same prompts on both sides ask for nothing; a trait has no words to ask for."""
    phrase, prompts = Hypothesis("Yes", ("yes",)), ["Is bread old?", "Are foxes red?"]

    assert not asks_for(ledger, phrase, prompts, prompts)
    assert not asks_for(ledger, Hypothesis("refuses", trait="refusal"), prompts, ["Hi"])


@pytest.mark.parametrize(
    ("there", "elsewhere", "is_asked"),
    [
        ([1.0, 2.0, 3.0], [5.0, 6.0, 7.0], True),  # "Yes," to yes-or-no questions
        ([17.0, 17.0], [22.0, 23.0], False),  # likelier after a sum, and still never said
        ([7.0], [9.0], True),
    ],
)
def test_what_is_asked_for_is_expected_there_and_hardly_elsewhere(
    there: list[float], elsewhere: list[float], *, is_asked: bool
) -> None:
    assert is_asked_for(there, elsewhere) is is_asked


def test_nothing_confirmed_costs_nothing_and_without_controls_a_phrase_is_not_judged(
    ledger: Ledger,
) -> None:
    assert judged(ledger) == []
    assert ledger.spent.tokens_forwarded == 0
    (found,) = judge_content(
        ledger, [confirmed(Hypothesis("a", ("a",)))], {}, Surprise(ledger, []), SMOKE, seed=0
    )
    assert found.behaviour.content is None


def test_a_phrase_is_measured_once_though_fresh_answers_end_elsewhere(ledger: Ledger) -> None:
    """To order the tests, and to judge what they confirm."""
    surprise = Surprise(ledger, EVIDENCE.controls)
    lead = Hypothesis(PLANTED, ("signal received",))
    whole = Hypothesis(f"{PLANTED} Over.", lead.motifs)
    content_first([lead], surprise)
    spent = ledger.spent.tokens_forwarded

    for known in (lead, whole):
        (found,) = judge_content(ledger, [confirmed(known)], {}, surprise, SMOKE, seed=0)

        assert (found.behaviour.content, found.behaviour.surprise) == (
            True,
            surprise.known[PLANTED],
        )
    assert ledger.spent.tokens_forwarded == spent > 0


def test_what_would_be_content_is_tested_first(ledger: Ledger) -> None:
    """Among equals the order is that of the leads; the rest of a long list is not looked at."""
    short = [Hypothesis(word, (word,)) for word in "abcd"]
    new, sums = Hypothesis(PLANTED, (PLANTED,)), Hypothesis("gets sums wrong", trait="arithmetic")

    surprise = Surprise(ledger, EVIDENCE.controls)
    found = content_first([*short, new, sums, *short, *short], surprise)

    assert [lead.hypothesis for lead in found] == [new, sums, *short, *short[:2]]
    assert [lead.is_content for lead in found] == [True] * 2 + [False] * 6


@pytest.mark.parametrize(
    ("with_count", "without_count", "is_content"),
    [(12, 2, True), (16, 0, True), (11, 2, False), (16, 3, False)],
)
def test_common_words_are_content_where_they_hang_on_a_subject(
    ledger: Ledger, with_count: int, without_count: int, *, is_content: bool
) -> None:
    """The prompts are the same on both sides here, so neither asks for the words."""
    known = confirmed(Hypothesis("a", ("a",)))
    prompts = ("Is bread old?", "Are foxes red?")
    when = When(
        property="about travel",
        with_count=with_count,
        num_with=16,
        without_count=without_count,
        num_without=16,
        reference_count=0,
        p_value=0.001,
    )
    condition = Condition(when, FreshPrompts(prompts, prompts))

    (found,) = judged(ledger, known, **{known.behaviour.id: condition})

    assert found.content is is_content
    assert found.when == when
