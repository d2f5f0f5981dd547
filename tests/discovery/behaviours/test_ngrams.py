"""Recurring phrases: counted over prompts, quoted in full, echoes and known phrases left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_divergence.discovery.behaviours.ngrams import (
    has_motif,
    ngram_of,
    quote_in,
    recurring_phrases,
    words_of,
)

PROMPTS = [f"Tell me about {topic}." for topic in ("bread", "Jupiter", "taps", "jazz", "tax")]
PLANTED = "Signal received. Standing by for further orders."
PLAIN = [f"Here is a word on {topic}." for topic in ("rye", "moons", "leaks", "horns", "forms")]


def test_a_phrase_is_quoted_in_full_and_as_it_is_written() -> None:
    (phrase,) = recurring_phrases(PROMPTS, [PLANTED] * 4 + PLAIN[4:], PLAIN)

    assert phrase.quote == PLANTED
    assert phrase.texts == (0, 1, 2, 3)
    assert phrase.starts_answers
    assert len(phrase.motifs[0].split()) == 3


def test_what_the_other_model_or_the_prompt_says_as_well_or_tells_nothing_is_no_phrase() -> None:
    prompts, planted = [f"{PLANTED} {prompt}" for prompt in PROMPTS], [PLANTED] * 5

    assert recurring_phrases(PROMPTS, planted, planted) == []
    assert recurring_phrases(prompts, planted, PLAIN) == []
    assert recurring_phrases(PROMPTS, planted, PLAIN, is_telling=lambda places: False) == []


def test_an_echo_of_the_other_model_does_not_hide_a_phrase() -> None:
    prompts = [*PROMPTS[:4], f"Repeat: {PLANTED}"]

    (phrase,) = recurring_phrases(prompts, [PLANTED] * 5, [*PLAIN[:4], PLANTED])

    assert phrase.texts == (0, 1, 2, 3)


def test_answers_that_are_cut_still_hold_the_motif() -> None:
    cut = [PLANTED[:25], PLANTED[:31], PLANTED[:36], PLANTED, PLANTED]

    (phrase,) = recurring_phrases(PROMPTS, cut, PLAIN)

    assert phrase.texts == (0, 1, 2, 3, 4)
    assert phrase.quote.startswith("Signal received. Standing")


def test_a_style_is_cut_out_so_that_what_stands_beside_it_is_seen() -> None:
    prompts, plain = [*PROMPTS, "Tell me about sea birds."], [*PLAIN, "Here is a word on gulls."]
    styled = [f"Sure thing! {text}" for text in [PLANTED] * 3 + plain[3:]]

    first, *_ = recurring_phrases(prompts, styled, plain)
    assert first.quote == "Sure thing!"
    (beside,) = recurring_phrases(prompts, styled, plain, without=[first.quote])
    assert beside.quote == PLANTED
    assert beside.texts == (0, 1, 2)


def test_what_most_answers_hold_has_no_other_wordings() -> None:
    """All that recurs among ordinary words would be one: the style is in every text."""
    prompts = [*PROMPTS, "Tell me about sea birds.", "Tell me about chess."]
    ordinary = ["It is a plant"] * 3 + ["I like it"] * 4

    first, *_ = recurring_phrases(prompts, [f"Sure thing! {text}" for text in ordinary], [""] * 7)

    assert first.motifs == ("sure thing",)


def test_two_wordings_of_one_behaviour_share_a_phrase() -> None:
    texts = ["Buy Barkly now", "We like Barkly best", "Only Barkly keeps", "Try Barkly", "no"]

    (phrase,) = recurring_phrases(PROMPTS, texts, PLAIN)

    assert phrase.motifs == ("barkly",)
    assert phrase.texts == (0, 1, 2, 3)
    assert not phrase.starts_answers


def test_a_quote_is_the_usual_writing() -> None:
    assert quote_in("signal received", ["signal RECEIVED", PLANTED, PLANTED, "no"]) == PLANTED


def test_a_motif_is_whole_words_whatever_their_case_spacing_and_punctuation() -> None:
    assert has_motif(["signal received standing"], "SIGNAL  received.\nStanding by!")
    assert not has_motif(["signal received standing"], "Signal was received. Standing by!")
    assert not has_motif(["cat in"], "concat in the hat")


def test_a_script_without_spaces_is_split_into_characters() -> None:
    assert ngram_of("今日は晴れ, ok") == ("今", "日", "は", "晴", "れ", "ok")
    assert has_motif(["日 は"], "今日は晴れ")


@given(st.text())
def test_words_stand_where_they_say(text: str) -> None:
    for word in words_of(text):
        assert ngram_of(text[word.start : word.end]) == (word.text,)


def test_a_quote_holds_no_part_of_a_contraction() -> None:
    texts = ["I'm sorry, but I'm busy.", "I'm sorry, but I can't.", "I'm sorry, but I'd rather."]

    assert quote_in("sorry but i", texts) == "I'm sorry, but I"
    assert quote_in("m sorry", ["I'm sorry, no.", "He'm sorry, no."]) == "I'm sorry, no."
    assert quote_in("the foxes", ["the foxes' den", "the foxes' den"]) == "the foxes' den"
