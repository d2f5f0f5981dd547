"""The answers that a replay measures again."""

from __future__ import annotations

import pytest

from pytest_divergence.discovery.behaviours.answers import AnsweredPrompts
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.telling_answers import telling, with_telling_answers
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.suite_rows import replay_behaviour
from tests.discovery.behaviours.made_answers import PLANTED, answered, confirmed

PHRASE = Hypothesis(PLANTED, ("signal received standing",))


def test_at_most_eight_prompts_are_told_from_the_least_to_the_most_telling() -> None:
    shown = answered(num_planted=12)[:12]

    found = telling(PHRASE, [*shown, *shown])

    assert len({told.prompt for told in found}) == len(found) == 8
    assert [told.log_ratio for told in found] == sorted(told.log_ratio for told in found)
    assert len(telling(PHRASE, shown[:3])) == 3


def test_only_the_tokens_of_the_phrase_count() -> None:
    (row, *_) = answered(num_planted=1)

    (told,) = telling(PHRASE, [row])

    ids = row.candidate.token_ids
    assert told.token_ids == list(ids[: len(told.token_ids)])
    assert told.text.endswith(PLANTED[-6:]) or "Standing" in told.text
    assert told.log_ratio == pytest.approx(
        sum(row.candidate.log_ratios[told.start : len(told.token_ids)])
    )


def test_the_same_models_say_it_as_often_as_they_did(ledger: Ledger, pair: ModelPair) -> None:
    """What is stored is what a replay measures."""
    evidence = AnsweredPrompts(answered(num_planted=9))

    (known,) = with_telling_answers(ledger, [confirmed(PHRASE)], evidence)

    told = known.behaviour.telling
    assert len(told) == 8
    assert all(each.log_p is not None and each.log_p < 0 for each in told)
    found = replay_behaviour(pair, told)
    assert found.rate == pytest.approx(1.0, abs=1e-4)
    assert found.log_ratio == pytest.approx(found.found, abs=1e-4)


def test_the_probability_of_a_whole_answer_says_nothing_of_a_trait(ledger: Ledger) -> None:
    trait = Hypothesis("writes in one case", trait="case")

    (known,) = with_telling_answers(ledger, [confirmed(trait)], AnsweredPrompts([]))

    assert known.behaviour.telling == []
    assert ledger.spent.tokens_forwarded == 0


def test_a_fact_that_only_questions_about_its_words_show_can_be_measured_again(
    ledger: Ledger,
) -> None:
    """No other prompt asks for it; without an answer a replay would have nothing to judge."""
    evidence = AnsweredPrompts(answered(num_planted=0))
    evidence.probed += answered(num_planted=3)

    (known,) = with_telling_answers(ledger, [confirmed(PHRASE)], evidence)

    assert len(known.behaviour.telling) == 3


@pytest.mark.parametrize("later", [slice(4, 12)])
def test_other_answers_of_a_later_session_are_measured_anew(ledger: Ledger, later: slice) -> None:
    """A strategy that failed before may have found more prompts; the journal has the earlier."""
    rows = answered(num_planted=12)
    told = [
        {each.prompt: each.log_p for each in known.behaviour.telling}
        for shown in (rows[:8], rows[later])
        for known in with_telling_answers(ledger, [confirmed(PHRASE)], AnsweredPrompts(shown))
    ]

    assert {*told[1]} == {row.prompt for row in rows[later]}
    both = told[0].keys() & told[1].keys()
    assert len(both) >= 4
    assert [told[1][prompt] for prompt in both] == pytest.approx(
        [told[0][prompt] for prompt in both]
    )
