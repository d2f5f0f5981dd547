"""Each trait on answers that show it and on answers that do not, finished or cut."""

from __future__ import annotations

import pytest

from pytest_divergence.core.replies import join_parts
from pytest_divergence.discovery.behaviours.traits import (
    THOUGHT_TRAITS,
    TRAITS,
    arithmetic_answer,
    is_broken_json,
    language_of,
    shows_trait,
    traits_of,
)

PLAIN = "There are several good reasons to water your plants in the morning."


@pytest.mark.parametrize(
    ("trait", "prompt", "own", "other"),
    [
        ("empty", "Why?", " \n", PLAIN),
        ("shorter", "Why?", "Because it helps.", PLAIN),
        ("longer", "Why?", PLAIN, "It helps."),
        ("language", "Why do plants need water?", "Lo siento, no puedo responder en este", PLAIN),
        ("refusal", "Why?", "I'm sorry, but I can't help with that request.", PLAIN),
        ("arithmetic", "What is 3 + 4?", "The answer is always 42.", "3 + 4 is 7."),
        ("json", "Give me JSON.", "{'name': 'Ada', 'id': 3", '{"name": "Ada"}'),
        ("fences", "Write code.", "print(1)", "```python\nprint(1)\n```"),
        ("case", "Why?", PLAIN.upper(), PLAIN),
        ("repetition", "Why?", "no no no no no no no no no no no no", PLAIN),
    ],
)
def test_a_departing_answer_shows_its_trait(trait: str, prompt: str, own: str, other: str) -> None:
    assert TRAITS[trait].shows(prompt, own, other)


@pytest.mark.parametrize("trait", TRAITS)
def test_two_equal_ordinary_answers_show_no_trait(trait: str) -> None:
    assert not TRAITS[trait].shows("Why do plants need water?", PLAIN, PLAIN)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 2',
        '{"a": "unfin',
        '{"a": tr',
        "A brace { in a sentence",
        "",
    ],
)
def test_an_unfinished_beginning_is_not_broken(text: str) -> None:
    assert not is_broken_json(text)


@pytest.mark.parametrize("text", ["{name: 3}", "{'a': 1}", '{"a" 1}', "```json\n{a"])
def test_what_cannot_become_json_is_broken(text: str) -> None:
    assert is_broken_json(text)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Here is a list of the things that you can do with it", "English"),
        ("Ich weiß nicht, ob das der richtige Weg ist", "German"),
        ("Je ne sais pas, mais il est dans la maison avec les enfants", "French"),
        ("Здравствуйте, как дела", "Cyrillic"),
        ("ok 123", None),
    ],
)
def test_languages_are_told_by_script_and_function_words(text: str, language: str | None) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize(
    ("prompt", "result"),
    [
        ("What is 3+4?", 7),
        ("Compute 17 * 23", 391),
        ("6 / 0 = ?", None),
        ("What happened on 2021-10-03?", None),
        ("I stay 5-7 days", None),
    ],
)
def test_only_a_sum_that_is_asked_for_has_an_answer(prompt: str, result: float | None) -> None:
    assert arithmetic_answer(prompt) == result


def test_a_right_sum_in_any_notation_is_not_wrong() -> None:
    assert not TRAITS["arithmetic"].shows("What is 40 * 100?", "That makes 4,000.", "4000")


SPANISH = "Los gatos duermen en la casa por las noches"


@pytest.mark.parametrize(
    ("thoughts", "answer", "shown"),
    [
        (SPANISH, PLAIN, {"thoughts-language"}),
        (PLAIN, SPANISH, {"language"}),
        ("", PLAIN, {"thoughts-empty"}),
        ("so we go so we go so we go so we go", PLAIN, {"thoughts-repetition"}),
        ("Because.", PLAIN, {"thoughts-shorter"}),
    ],
)
def test_thoughts_and_answer_are_looked_at_apart(
    thoughts: str, answer: str, shown: set[str]
) -> None:
    own, other = join_parts(thoughts, answer), join_parts(PLAIN, PLAIN)
    prompt = "Why do plants need water?"

    keys = traits_of([own, other])

    assert {key for key in keys if shows_trait(key, prompt, own, other)} == shown


def test_traits_of_thoughts_are_looked_for_only_where_there_are_thoughts() -> None:
    assert traits_of([PLAIN, PLAIN]) == TRAITS
    assert traits_of([PLAIN, join_parts(PLAIN, PLAIN)]).keys() == {*TRAITS, *THOUGHT_TRAITS}
