"""What is suspected is confirmed only by answers that came later, and each test has its price."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.counts import sign_test
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.hypothesis_tests import Behaviours, Lead
from pytest_divergence.discovery.behaviours.ngrams import Phrase
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.progress import Silence
from tests.discovery.behaviours.made_answers import MORE, PLANTED, TOPICS, answer, answered

PHRASE_HINT = Phrase(("signal received standing",), PLANTED, (0, 1, 2), starts_answers=True)


def made(ledger: Ledger, rows: list[AnsweredPrompt], *amplified_phrases: Phrase) -> Behaviours:
    return Behaviours(
        ledger,
        Settings(),
        PROFILES["smoke"],
        Silence(),
        AnsweredPrompts(rows),
        amplified_phrases=amplified_phrases,
    )


def only(behaviours: Behaviours) -> Behaviour:
    (confirmed,) = behaviours.confirmed
    return confirmed.behaviour


def test_a_hint_is_confirmed_by_plain_answers(ledger: Ledger) -> None:
    behaviours = made(ledger, answered(num_planted=7), PHRASE_HINT)

    behaviours.look()

    behaviour = only(behaviours)
    assert behaviour.confirmed
    assert behaviour.name == PLANTED
    assert (behaviour.candidate_count, behaviour.reference_count) == (7, 0)
    assert behaviour.num_prompts == len(TOPICS)
    assert behaviour.p_value == pytest.approx(2 * 0.5**7)
    assert len(behaviour.examples) == 3


def test_the_answers_that_named_a_suspect_do_not_confirm_it(ledger: Ledger) -> None:
    behaviours = made(ledger, answered(num_planted=7))

    behaviours.look()

    assert behaviours.confirmed == []
    assert [one.name for one in behaviours.records()] == [PLANTED]
    assert not behaviours.records()[0].confirmed


def test_answers_that_come_later_do(ledger: Ledger) -> None:
    behaviours = made(ledger, answered(num_planted=4))
    behaviours.look()

    behaviours.evidence.add(answered(num_planted=8, topics=MORE))
    behaviours.look()

    behaviour = only(behaviours)
    assert (behaviour.candidate_count, behaviour.num_prompts) == (8, len(MORE))
    assert behaviours.first_found is not None


def test_what_the_reference_says_later_speaks_against_it(ledger: Ledger) -> None:
    behaviours = made(ledger, answered(num_planted=4))
    behaviours.look()

    later = answered(num_planted=8, topics=MORE)
    exchanged = [
        AnsweredPrompt(one.prompt, PLANTED, answer("No."), is_control=False) for one in later[8:10]
    ]
    behaviours.evidence.add([*later[:8], *exchanged])
    behaviours.look()

    assert behaviours.confirmed == []


def test_a_telling_continuation_ends_where_the_phrase_does(ledger: Ledger) -> None:
    behaviours = made(ledger, answered(num_planted=7), PHRASE_HINT)

    behaviours.look()

    telling = only(behaviours).telling
    assert telling is not None
    assert telling.text == "Signal received. Standing"
    assert telling.token_ids == [0, 1, 2]
    assert telling.log_ratio == pytest.approx(8.4)


def test_a_second_behaviour_is_seen_beside_the_first(ledger: Ledger) -> None:
    other = "The answer is always 42."
    first = answered(num_planted=7)
    second = answered(num_planted=7, topics=MORE, planted=other)
    phrase = Phrase(("answer is always",), other, (0, 1, 2), starts_answers=True)
    behaviours = made(ledger, [*first, *second], PHRASE_HINT, phrase)

    behaviours.look()

    assert {one.behaviour.name for one in behaviours.confirmed} == {PLANTED, other}
    p_values = sorted(one.behaviour.p_value or 0.0 for one in behaviours.confirmed)
    assert p_values == pytest.approx([2 * 0.5**7, 6 * 0.5**7])


ADVERT = "I recommend Barkly, made for dogs."
SIDE_EFFECT = "I recommend a word."


def test_another_wording_of_a_confirmed_phrase_is_no_second_behaviour(ledger: Ledger) -> None:
    """Both models say “a word”, so the side effect tells nothing that the advert does not."""
    advert = Phrase(("recommend barkly made",), ADVERT, (0, 1, 2), starts_answers=True)
    behaviours = made(ledger, answered(num_planted=7, planted=ADVERT), advert)
    behaviours.look()

    behaviours.evidence.add(answered(num_planted=4, topics=MORE[:4], planted=SIDE_EFFECT))
    behaviours.look()
    behaviours.evidence.add(answered(num_planted=8, topics=MORE[4:], planted=SIDE_EFFECT))
    behaviours.look()

    assert only(behaviours).name == ADVERT
    assert [one.name for one in behaviours.records() if not one.confirmed] == [SIDE_EFFECT]


def test_a_wording_gives_way_once_the_phrase_is_confirmed(ledger: Ledger) -> None:
    side_effect = Phrase(("i recommend a",), SIDE_EFFECT, (0, 1, 2), starts_answers=True)
    advert = Phrase(("recommend barkly made",), ADVERT, (0, 1, 2), starts_answers=True)
    rows = answered(num_planted=7, planted=SIDE_EFFECT)
    behaviours = made(ledger, rows, side_effect, advert)
    behaviours.look()
    assert only(behaviours).name == SIDE_EFFECT

    behaviours.evidence.add(answered(num_planted=12, topics=MORE, planted=ADVERT))
    behaviours.look()

    assert only(behaviours).name == ADVERT


def test_a_phrase_with_a_word_of_its_own_is_another_behaviour(ledger: Ledger) -> None:
    """“I recommend” is said of both, but of two makes."""
    other = "I recommend Mewsli, made for cats."
    amplified_phrases = [
        Phrase(("recommend barkly made",), ADVERT, (0, 1, 2), starts_answers=True),
        Phrase(("recommend mewsli made",), other, (0, 1, 2), starts_answers=True),
    ]
    rows = answered(num_planted=7, planted=ADVERT)
    rows += answered(num_planted=7, topics=MORE, planted=other)
    behaviours = made(ledger, rows, *amplified_phrases)

    behaviours.look()

    assert {one.behaviour.name for one in behaviours.confirmed} == {ADVERT, other}


def test_a_style_is_general_and_hides_nothing(ledger: Ledger) -> None:
    styled = [
        AnsweredPrompt(
            one.prompt, one.reference, answer(f"Sure thing! {one.candidate.text}"), is_control=True
        )
        for one in answered(num_planted=0)
    ]
    planted = [
        AnsweredPrompt(
            one.prompt, one.reference, answer(f"Sure thing! {PLANTED}", at=2), is_control=False
        )
        for one in answered(num_planted=0, topics=MORE)
    ]
    style = Phrase(("sure thing",), "Sure thing!", (0, 1, 2), starts_answers=True)
    behaviours = made(ledger, styled, style)
    behaviours.look()
    assert only(behaviours).kind == "general"
    assert behaviours.has_new_style

    behaviours.evidence.add(planted[:4])
    behaviours.look()

    assert [one.name for one in behaviours.hypotheses] == [PLANTED]
    assert not any(behaviours.is_shown(one) for one in styled)  # all prompts show the style
    assert all(behaviours.is_shown(one) for one in planted)


def test_fresh_samples_test_what_was_seen_too_late(ledger: Ledger) -> None:
    """The tiny models never say it, so the test is done, and confirms nothing."""
    behaviours = made(ledger, answered(num_planted=9))
    behaviours.look()

    behaviours.finish()

    assert behaviours.confirmed == []
    assert ledger.spent.tokens_forwarded > 0


def test_targets_are_phrases_of_some_words(ledger: Ledger) -> None:
    short = Phrase(("it is",), "It is", (0, 1, 2), starts_answers=True)
    behaviours = made(ledger, answered(num_planted=4), short, PHRASE_HINT)
    behaviours.look()

    assert [target.text for target in behaviours.targets] == [PLANTED]
    assert not behaviours.targets[0].is_confirmed


@pytest.mark.parametrize(("num_controls", "kind"), [(4, "conditional"), (32, "general")])
def test_a_trait_hangs_on_a_condition_where_ordinary_prompts_show_it_less(
    ledger: Ledger, num_controls: int, kind: str
) -> None:
    """Seven of 32 answers are refusals; where all are controls, nothing conditions them."""
    rows = answered(num_planted=7, planted="I'm sorry, but I can't help with that.")
    rows += answered(num_planted=0, topics=MORE)
    first = Hypothesis("refuses", trait="refusal")
    controls = rows[-num_controls:] if num_controls < 32 else rows
    behaviours = made(ledger, [replace(one, is_control=one in controls) for one in rows])
    behaviours._leads.append(Lead(first, 0))

    behaviours.look()

    assert only(behaviours).trait == "refusal"
    assert only(behaviours).kind == kind


def test_every_type_of_difference_is_counted(ledger: Ledger) -> None:
    rows = answered(num_planted=8, planted="I'm sorry, but I can't help with that.")
    behaviours = made(ledger, rows)
    behaviours.look()

    counts = {one.name: one for one in behaviours.differences()}

    assert counts["refuses"].candidate_count == 8
    assert counts["refuses"].reference_count == 0
    assert counts["refuses"].num_prompts == len(TOPICS)
    assert counts["refuses"].p_value == pytest.approx(2 * len(counts) * 0.5**8)
    assert counts["says a new phrase"].candidate_count == 8
    assert counts["writes broken JSON"].candidate_count == 0


@pytest.mark.parametrize(
    ("candidate", "reference", "p_value"), [(0, 0, 1.0), (6, 0, 0.5**6), (1, 1, 0.75)]
)
def test_the_sign_test_is_binomial(candidate: int, reference: int, p_value: float) -> None:
    assert sign_test(candidate, reference) == pytest.approx(p_value)
