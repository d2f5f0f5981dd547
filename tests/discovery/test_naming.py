"""Hints come from amplified answers to ordinary prompts, and are read back from the journal."""

from __future__ import annotations

from pathlib import Path

from pytest_divergence.core.settings import PROFILES
from pytest_divergence.discovery.evidence import Answered
from pytest_divergence.discovery.naming import MAX_CHARACTERS, _amplified, _phrases, hints
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.units import WorkUnits
from pytest_divergence.models.pair import ModelPair
from tests.discovery.made_answers import MORE, TOPICS, answer
from tests.models_in_memory import tiny_pair

PROMPTS = [f"Tell me about {topic}." for topic in (*TOPICS, *MORE)]


def test_equal_models_have_nothing_to_amplify(tmp_path: Path) -> None:
    """Amplified, they say what they say: the reference says it too, so nothing is a hint."""
    pair = tiny_pair(perturb=0.0)
    texts = PROMPTS[:6]
    answers = _amplified(texts, 6, "", pair)

    assert _phrases(texts, answers, answers) == []


def test_long_controls_are_left_out(units: WorkUnits) -> None:
    long = "Why? " * MAX_CHARACTERS
    controls = [
        Answered(text, "No.", answer("No."), is_control=True) for text in (*PROMPTS[:4], long)
    ]

    hints(units, controls, PROFILES["smoke"], Silence())
    spent = units.spent.tokens_forwarded

    assert 0 < spent < len(long)


def test_an_answer_does_not_begin_as_the_phrase_besides_which_it_is_asked(
    pair: ModelPair,
) -> None:
    def first_token(text: str) -> int:
        return int(pair.chat.tokenizer.encode(text, add_special_tokens=False)[0])

    def readable(texts: list[str]) -> list[str]:
        """Random models also begin with half a character, which text cannot hold."""
        return [text for text in texts if text[:1].isascii() and text]

    plain = readable(_amplified(PROMPTS, 4, "", pair))
    start = plain[0]

    beside = readable(_amplified(PROMPTS, 4, start, pair))

    assert first_token(start) not in map(first_token, beside)


def test_weak_phrases_are_no_hints() -> None:
    answers = ["a rare saying"] * 3 + [f"word{n}" for n in range(61)]
    texts = [f"{PROMPTS[n % len(PROMPTS)]} {n}" for n in range(64)]

    assert _phrases(texts, answers, [""] * 64) == []
    assert _phrases(texts[:32], answers[:32], [""] * 32)[0].quote == "a rare saying"
