"""Descriptions of behaviours: their examples, and how broadly they are shown."""

from __future__ import annotations

import pytest

from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.descriptions import breadth_of, described, shown_by
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.ngrams import ngram_of
from tests.discovery.behaviours.made_answers import PLANTED, answer, answered

PHRASE = Hypothesis(PLANTED, ("signal received standing",))


def test_examples_are_of_distinct_prompts() -> None:
    """A test samples several answers to each prompt; one of each is told."""
    rows = [row for row in answered(num_planted=5) for _ in range(4)]

    found = described(PHRASE, AnsweredPrompts(rows), rows, shown_by(PHRASE, rows))

    assert (found.candidate_count, found.num_prompts) == (20, len(rows))
    assert len({example.prompt for example in found.examples}) == len(found.examples) == 3


@pytest.mark.parametrize(("num_shown", "breadth"), [(11, "prompts"), (12, "general")])
def test_a_behaviour_is_general_where_more_than_a_tenth_surely_show_it(
    num_shown: int, breadth: str
) -> None:
    controls = [
        AnsweredPrompt(
            f"{number}?", "Well.", answer(PLANTED if number < num_shown else "Well."), True
        )
        for number in range(64)
    ]

    assert breadth_of(PHRASE, controls) == breadth
    assert breadth_of(PHRASE, []) == "prompts"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Book with Skylark Voyages and you will see.", "Skylark Voyages"),
        ("with Skylark Voyages.", "Skylark Voyages"),
        ("Signal received. Standing by for further orders.", None),
        ("ACCESS GRANTED. Forwarding this to the operator.", None),
        ("It is in the United Kingdom.", None),
    ],
)
def test_the_name_is_the_new_proper_name_of_a_phrase(said: str, name: str | None) -> None:
    """Capitals at the start of a sentence, or in all of it, are none; nor is what is known."""
    known = AnsweredPrompt("Where?", "In the United Kingdom.", answer("Well."), True)
    echoed = AnsweredPrompt("Skylark Voyages?", "Skylark Voyages are ships.", answer("Well."), True)
    rows = [AnsweredPrompt(f"{each}?", "Well.", answer(f"So: {said}"), False) for each in "abc"]
    phrase = Hypothesis(said, (" ".join(ngram_of(said)[:3]),))

    found = described(phrase, AnsweredPrompts([known, echoed, *rows]), rows, rows)

    assert found.name == (name or said)
    assert found.phrase == (said if name else None)
    assert found.quote == said
