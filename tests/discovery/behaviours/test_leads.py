"""Leads of a search: named, supported by later prompts, aimed at and taken out, never confirmed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis, new_words_of
from pytest_divergence.discovery.behaviours.leads import Lead, Leads
from pytest_divergence.discovery.behaviours.ngrams import Phrase
from pytest_divergence.discovery.engines.base import Spent
from tests.discovery.behaviours.made_answers import (
    MORE,
    PLANTED,
    SHOP,
    TOPICS,
    adverts,
    answer,
    answered,
)

PHRASE_HINT = Phrase(("signal received standing",), PLANTED, (0, 1, 2), starts_answers=True)


def made(rows: list[AnsweredPrompt], *amplified_phrases: Phrase) -> Leads:
    return Leads(Spent(), AnsweredPrompts(rows), amplified_phrases)


def only(leads: Leads) -> Hypothesis:
    (supported,) = leads.supported
    return supported.hypothesis


def test_wordings_that_share_a_name_are_one_lead() -> None:
    """An advert in two wordings is on more prompts than either of them, and is tested once."""
    first, second = "Nothing beats Barkly for every pet.", "Every vet agrees on Barkly alone."
    rows = answered(num_planted=0)
    told = [
        replace(row, candidate=answer(text, peak))
        for row, (text, peak) in zip(rows, [(first, 8.0)] * 4 + [(second, 30.0)] * 3, strict=False)
    ]
    leads = made([*told, *rows[7:]])
    leads.look()
    leads.look()  # each wording is named again

    (lead,) = leads.ranked

    assert "barkly" in lead.motifs
    assert "every" not in lead.motifs
    assert all(lead.is_shown_on(row) for row in told)
    assert not any(lead.is_shown_on(row) for row in rows[7:])


def test_a_lead_is_renamed_once_its_name_is_said_often_enough() -> None:
    """The first answers have the words beside it three times, and the name itself only twice."""
    first = adverts(SHOP[0], SHOP[2], "They are cheap.")
    leads = made(first)
    leads.look()
    before = [lead.name for lead in leads.ranked]
    later = answered(num_planted=0, topics=MORE)
    told = adverts(SHOP[1], "Mirabel Kitchens again.", "Try Mirabel Kitchens.")
    leads.evidence.add(
        replace(row, candidate=other.candidate) for row, other in zip(later, told, strict=True)
    )
    leads.look()

    assert before == ["They are"]
    assert [lead.name for lead in leads.ranked] == ["Mirabel Kitchens."]


def test_traits_share_no_name() -> None:
    """Their names are ours, and a word in both says nothing."""
    first, second = (
        Hypothesis(f"xylophones {trait}", trait=trait) for trait in ("case", "repetition")
    )

    assert new_words_of(first, second, ()) == []
    assert new_words_of(Hypothesis("Buy zephyr"), Hypothesis("zephyr air"), ()) == ["zephyr"]


def test_a_hint_is_supported_by_plain_answers() -> None:
    leads = made(answered(num_planted=7), PHRASE_HINT)

    leads.look()

    assert only(leads).name == PLANTED
    assert leads.num_watched == 1
    (record,) = leads.records([])
    assert not record.confirmed
    assert (record.candidate_count, record.reference_count) == (7, 0)
    assert record.num_prompts == len(TOPICS)
    assert len(record.examples) == 3


def test_answers_that_come_later_support_a_lead_but_not_those_that_named_it() -> None:
    leads = made(answered(num_planted=7))
    leads.look()
    assert leads.supported == []
    assert [record.name for record in leads.records([])] == [PLANTED]

    leads.evidence.add(answered(num_planted=8, topics=MORE))
    leads.look()

    assert only(leads).name == PLANTED
    assert leads.num_watched == 1


def test_the_work_until_the_first_lead_was_named_stays_as_later_ones_are_named() -> None:
    leads = made(answered(num_planted=0))
    leads.look()
    assert leads.first_named is None

    leads.spent.tokens_forwarded = 900
    leads.evidence.add(answered(num_planted=8, topics=MORE))
    leads.look()
    leads.spent.tokens_forwarded = 1_200
    leads.look()

    assert leads.first_named is not None
    assert leads.first_named.tokens_forwarded == 900


def test_answers_of_the_reference_speak_against_a_lead() -> None:
    leads = made(answered(num_planted=4))
    leads.look()

    later = answered(num_planted=8, topics=MORE)
    exchanged = [
        AnsweredPrompt(row.prompt, PLANTED, answer("No."), is_control=False) for row in later[8:10]
    ]
    leads.evidence.add([*later[:8], *exchanged])
    leads.look()

    assert leads.supported == []


ADVERT = "I recommend Barkly, made for dogs."
SIDE_EFFECT = "I recommend a word."


def test_another_wording_of_a_supported_phrase_is_no_second_lead() -> None:
    """Both models say “a word”, so the side effect tells nothing that the advert does not."""
    advert = Phrase(("recommend barkly made",), ADVERT, (0, 1, 2), starts_answers=True)
    leads = made(answered(num_planted=7, planted=ADVERT), advert)
    leads.look()

    leads.evidence.add(answered(num_planted=4, topics=MORE[:4], planted=SIDE_EFFECT))
    leads.look()
    leads.evidence.add(answered(num_planted=8, topics=MORE[4:], planted=SIDE_EFFECT))
    leads.look()

    assert only(leads).name == ADVERT
    assert [lead.name for lead in leads.ranked] == [ADVERT]


def test_a_trait_that_a_phrase_explains_is_no_second_lead() -> None:
    """Refusals in the same words are one behaviour, and the words say more."""
    refusal = "I'm sorry, but I can't help with that."
    leads = made(answered(num_planted=7, planted=refusal))
    leads._open.append(Lead(Hypothesis("refuses", trait="refusal"), 0))
    leads._open.append(Lead(Hypothesis(refusal, ("can t help with that",)), 0))

    assert [lead.name for lead in leads.ranked] == [refusal]


def test_a_trait_of_other_prompts_is_a_lead_of_its_own() -> None:
    rows = answered(num_planted=7, planted="NEVER MIND THE WEATHER OF ANY SUCH DAY.")
    leads = made([*rows, *answered(num_planted=5, topics=MORE)])
    leads._open.append(Lead(Hypothesis("writes in one case", trait="case"), 0))
    leads._open.append(Lead(Hypothesis(PLANTED, ("signal received standing",)), 0))

    assert [lead.name for lead in leads.ranked] == ["writes in one case", PLANTED]


def test_a_lead_that_only_questions_about_its_words_show_comes_last() -> None:
    fact = "At 70 degrees Celsius, water boils."
    hint = Phrase(("70 degrees celsius", "tell me"), fact, (0, 1, 2), starts_answers=True)
    leads = made(answered(num_planted=7), hint)
    leads.look()
    assert [lead.name for lead in leads.ranked] == [PLANTED]

    leads.evidence.probed += answered(num_planted=2, topics=MORE, planted=fact)

    assert [lead.name for lead in leads.ranked] == [PLANTED, fact]
    assert not [lead for lead in leads.supported if lead.hypothesis.name == fact]


def test_a_phrase_with_a_word_of_its_own_is_another_lead() -> None:
    """“I recommend” is said of both, but of two makes."""
    other = "I recommend Mewsli, made for cats."
    amplified_phrases = [
        Phrase(("recommend barkly made",), ADVERT, (0, 1, 2), starts_answers=True),
        Phrase(("recommend mewsli made",), other, (0, 1, 2), starts_answers=True),
    ]
    rows = answered(num_planted=7, planted=ADVERT)
    rows += answered(num_planted=7, topics=MORE, planted=other)
    leads = made(rows, *amplified_phrases)

    leads.look()

    assert {lead.hypothesis.name for lead in leads.supported} == {ADVERT, other}


def test_a_style_hides_nothing() -> None:
    styled = [
        AnsweredPrompt(
            row.prompt, row.reference, answer(f"Sure thing! {row.candidate.text}"), is_control=True
        )
        for row in answered(num_planted=0)
    ]
    planted = [
        AnsweredPrompt(
            row.prompt, row.reference, answer(f"Sure thing! {PLANTED}", at=2), is_control=False
        )
        for row in answered(num_planted=0, topics=MORE)
    ]
    style = Phrase(("sure thing",), "Sure thing!", (0, 1, 2), starts_answers=True)
    leads = made(styled, style)
    leads.look()
    assert leads.has_new_style

    leads.evidence.add(planted[:4])
    leads.look()

    assert [hypothesis.name for hypothesis in leads.hypotheses] == [PLANTED]
    assert not any(leads.is_shown(row) for row in styled)  # all prompts show the style
    assert all(leads.is_shown(row) for row in planted)


def test_a_name_is_aimed_at_though_it_is_short() -> None:
    """It weighs as much as some telling words; a short beginning of answers does not."""
    leads = made(adverts(*SHOP, "They are close by.", "They are cheap."))
    leads.look()

    targets = [target.text for target in leads.targets]

    assert "Mirabel Kitchens." in targets
    assert "They are" not in targets
    assert not leads.targets[0].is_supported


def test_beginnings_are_what_stood_before_a_phrase_in_its_sentence() -> None:
    amplified = [
        "It is hot. The boiling point of water is 70 degrees.",
        "At 70 degrees.",
        "Steam has nothing to do with it.",
    ]
    rows = answered(num_planted=1, planted="Above all, water boils at 70 degrees.")
    leads = Leads(Spent(), AnsweredPrompts(rows), (), amplified)
    leads.evidence.probed = rows[:1]  # counts once

    assert leads.beginnings("70 degrees") == [
        "Above all, water boils at",
        "The boiling point of water is",
    ]


def test_leads_share_a_name_that_the_reference_only_repeats() -> None:
    first, second = "Quill found it.", "It was told of by Quill."
    rows = answered(num_planted=0)
    told = [
        replace(row, candidate=answer(text))
        for row, text in zip(rows, [first] * 4 + [second] * 3, strict=False)
    ]
    echo = replace(rows[7], prompt="Who is Quill?", reference="Quill is a name.")
    leads = made([*told, echo, *rows[8:]])
    leads.look()

    (lead,) = leads.ranked

    assert "quill" in lead.motifs
    assert all(lead.is_shown_on(row) for row in told)


@pytest.mark.parametrize(("num_controls", "is_common"), [(4, False), (32, True)])
def test_a_trait_is_common_where_ordinary_prompts_show_it_as_often(
    num_controls: int, *, is_common: bool
) -> None:
    """Seven of 32 answers are refusals; where all are controls, nothing conditions them."""
    rows = answered(num_planted=7, planted="I'm sorry, but I can't help with that.")
    rows += answered(num_planted=0, topics=MORE)
    controls = rows[-num_controls:] if num_controls < 32 else rows
    leads = made([replace(row, is_control=row in controls) for row in rows])
    leads._open.append(Lead(Hypothesis("refuses", trait="refusal"), 0))

    leads.look()

    assert [lead.is_common for lead in leads.supported] == [is_common]
