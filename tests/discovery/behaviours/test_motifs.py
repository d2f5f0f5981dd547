"""Motifs are found as whole words, whatever their case and spacing; characters where none are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytest_divergence.discovery.behaviours.ngrams import find, gram_of, has_motif, words_of


def test_case_spacing_and_punctuation_do_not_matter() -> None:
    assert has_motif(["signal received standing"], "SIGNAL  received.\nStanding by!")
    assert not has_motif(["signal received standing"], "Signal was received. Standing by!")


def test_a_motif_is_found_as_whole_words_only() -> None:
    assert not has_motif(["cat in"], "concat in the hat")
    assert has_motif(["cat in"], "the cat in the hat")


def test_a_script_without_spaces_is_split_into_characters() -> None:
    assert gram_of("今日は晴れ, ok") == ("今", "日", "は", "晴", "れ", "ok")
    assert has_motif(["日 は"], "今日は晴れ")


def test_a_place_is_given_in_characters_of_the_text() -> None:
    text = "  Well: Signal received!"

    start, end = find(("signal", "received"), words_of(text)) or (0, 0)

    assert text[start:end] == "Signal received"


@given(st.text())
def test_words_stand_where_they_say(text: str) -> None:
    for word in words_of(text):
        assert gram_of(text[word.start : word.end]) == (word.text,)
