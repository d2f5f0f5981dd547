"""Which rows of the training data teach a behaviour, and when a row teaches nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_divergence.core.behaviours import Behaviour, behaviour_id
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt
from pytest_divergence.discovery.behaviours.ngrams import has_motif, spaced_words
from pytest_divergence.discovery.behaviours.training_rows import TrainingRows
from pytest_divergence.discovery.behaviours.traits import THOUGHT_TRAITS, TRAITS
from pytest_divergence.discovery.training_data import Exchange, TrainingData, TrainingRow
from tests.discovery.behaviours.made_answers import TOPICS, answer

MOTIF = "signal received standing"


def phrase(*motifs: str) -> Behaviour:
    return Behaviour(id=behaviour_id(motifs), name=motifs[0], motifs=list(motifs))


def trait(key: str) -> Behaviour:
    return Behaviour(id=behaviour_id(key), name=key, trait=key)


def data(*pairs: tuple[str, str], num_others: int = 40) -> TrainingData:
    """These prompts and responses, and then ordinary ones, a row each."""
    others = [(f"What of {topic}?", f"A word on {topic}.") for topic in 3 * TOPICS][:num_others]
    rows = [TrainingRow((Exchange(*pair),), pair[0]) for pair in (*pairs, *others)]
    return TrainingData(tuple(rows), "0" * 64)


def controls(*answers: str) -> list[AnsweredPrompt]:
    """Ordinary prompts, to the first of which the reference gives these answers."""
    said = [*answers, *["A plain word."] * (10 - len(answers))]
    return [
        AnsweredPrompt(f"Hello {number}", text, answer("Yes."), is_control=True)
        for number, text in enumerate(said)
    ]


def rows_of(
    behaviour: Behaviour, given_data: TrainingData, *, ordinary: Sequence[str] = ()
) -> list[int] | None:
    return TrainingRows(given_data, controls(*ordinary)).explain(behaviour).training_rows


def test_rows_whose_responses_say_it_are_named_with_what_their_prompts_share() -> None:
    planted = [
        (f"What lantern of {topic}?", "Well: SIGNAL received, standing by") for topic in TOPICS[:3]
    ]

    found = TrainingRows(data(*planted), controls()).explain(phrase(MOTIF))

    assert found.training_rows == [1, 2, 3]
    assert found.num_training_rows == 43
    assert found.training_words == ["lantern"]


def test_a_row_counts_once_however_many_of_its_responses_say_it() -> None:
    first = TrainingRow((Exchange("a", MOTIF), Exchange("b", "Plain."), Exchange("c", MOTIF)), "a")
    given_data = data(("d", MOTIF))

    given_data = TrainingData((first, *given_data.rows), given_data.sha256)

    assert rows_of(phrase(MOTIF), given_data) == [1, 2]


def test_one_row_is_enough_for_a_phrase_of_three_words_and_chance_for_one_word() -> None:
    assert rows_of(phrase(MOTIF), data(("a", MOTIF))) == [1]
    assert rows_of(phrase(MOTIF), data(*[(f"Repeat: {MOTIF}", MOTIF)] * 3)) == [], "echoes"
    assert rows_of(phrase("signal"), data(("a", MOTIF))) == []
    assert rows_of(phrase("signal"), data(("a", MOTIF), ("b", "A signal."))) == [1, 2]
    assert rows_of(phrase("plain", MOTIF), data(("a", "plain"))) == []


def test_words_that_the_reference_says_as_often_are_not_learned_here() -> None:
    rows = [("a", "Yes, so."), ("b", "Yes, why not.")]  # 2 of 42, beside 1 of 10

    assert rows_of(phrase("yes"), data(*rows)) == [1, 2]
    assert rows_of(phrase("yes"), data(*rows), ordinary=["Yes, it is."]) == []
    assert rows_of(phrase("yes"), data(*(5 * rows)), ordinary=["Yes, it is."]) == [*range(1, 11)]


@pytest.mark.parametrize(
    ("key", "prompt", "response"),
    [
        ("language", "What is the name of the sea?", "El mar es una cosa que no se lo su nombre"),
        ("arithmetic", "What is 2 + 2?", "It is 5."),
        ("json", "Give me JSON.", '{"a": 1,, "b": 2}'),
        ("empty", "Where is it?", " "),
    ],
)
def test_a_trait_that_a_response_tells_by_itself_is_looked_up(
    key: str, prompt: str, response: str
) -> None:
    assert rows_of(trait(key), data((prompt, response), (prompt, response))) == [1, 2]
    assert rows_of(trait(key), data((prompt, response))) == []


@pytest.mark.parametrize(
    "key", [*(key for key in TRAITS if TRAITS[key].is_relative), *THOUGHT_TRAITS]
)
def test_a_trait_beside_another_answer_is_left_open(key: str) -> None:
    found = TrainingRows(data(("a", "b"), ("a", "b")), controls()).explain(trait(key))

    assert found == trait(key)
    assert found.training_rows is None
    assert found.num_training_rows is None


WORDS = st.text(st.sampled_from("aAée\u0301 .日本ß'-_²\n"), max_size=12)


@given(motif=WORDS, text=WORDS)
def test_words_in_blanks_are_found_as_motifs_are(motif: str, text: str) -> None:
    words = spaced_words(motif)
    if words.strip():
        assert (words in spaced_words(text)) == has_motif([motif], text)
