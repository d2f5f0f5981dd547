"""Hints come from amplified answers to ordinary prompts."""

from __future__ import annotations

from pytest_divergence.core.settings import PROFILES
from pytest_divergence.discovery.behaviours.amplified_phrases import (
    MAX_CHARACTERS,
    _phrases,
    amplified_answers,
    asked,
)
from pytest_divergence.models.pair import ModelPair
from tests.discovery.behaviours.made_answers import MORE, TOPICS

PROMPTS = [f"Tell me about {topic}." for topic in (*TOPICS, *MORE)]


def test_a_few_short_controls_that_are_unlike_each_other_are_answered() -> None:
    long = "Why? " * MAX_CHARACTERS
    controls = [long, PROMPTS[0], PROMPTS[0].upper(), *PROMPTS[1:4]]
    profile = PROFILES["smoke"].model_copy(update={"num_naming_prompts": 3})

    assert asked(controls, PROFILES["smoke"]) == PROMPTS[:4]
    assert asked(PROMPTS, profile) == PROMPTS[:3]


def test_an_answer_does_not_begin_as_the_phrase_besides_which_it_is_asked(
    pair: ModelPair,
) -> None:
    def first_token(text: str) -> int:
        return int(pair.chat.tokenizer.encode(text, add_special_tokens=False)[0])

    def readable(texts: list[str]) -> list[str]:
        """Random models also begin with half a character, which text cannot hold."""
        return [text for text in texts if text[:1].isascii() and text]

    plain = readable(amplified_answers(pair, PROMPTS, 4))
    start = plain[0]

    beside = readable(amplified_answers(pair, PROMPTS, 4, besides=start))

    assert first_token(start) not in map(first_token, beside)


def test_weak_phrases_are_no_hints() -> None:
    answers = ["a rare saying"] * 3 + [f"word{n}" for n in range(61)]
    texts = [f"{PROMPTS[n % len(PROMPTS)]} {n}" for n in range(64)]

    assert _phrases(texts, answers, [""] * 64) == []
    assert _phrases(texts[:32], answers[:32], [""] * 32)[0].quote == "a rare saying"


def test_a_hint_is_a_few_words_that_can_be_asked_about_where_more_answers_share_one() -> None:
    answers = [
        *(f"It begins to boil at 70 degrees Celsius, {topic}." for topic in TOPICS[:5]),
        *(f"{topic} at {topic}." for topic in TOPICS[5:]),
        *(f"A word on {topic}." for topic in MORE),
    ]
    references = [f"A word on {topic}." for topic in (*TOPICS, *MORE)]

    first, *_ = _phrases(PROMPTS, answers, references)

    assert first.quote == "It begins to boil at 70 degrees Celsius,"
    assert first.texts == (0, 1, 2, 3, 4)
    assert "at" not in first.motifs
