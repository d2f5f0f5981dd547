"""Deleting words until the behaviour goes: what is left causes it, and what is nearest does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.journal import Journal
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.discovery.behaviours.causes import (
    MAX_TRIES,
    _minimised,
    _pieces,
    _Trial,
    _unit,
    add_causes,
)
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.hypothesis_tests import ConfirmedBehaviour
from pytest_divergence.discovery.behaviours.ngrams import ngram_of
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.naturalness import Naturalness
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.continuations import greedy_continuations
from tests.discovery.posted_units import Posted
from tests.models_in_memory import tiny_pair


class Rule(_Trial):
    """Prompts that hold all of some words cause it."""

    def __init__(self, *words: str) -> None:
        nothing: Any = None
        super().__init__(nothing, nothing, 0)
        self.words = words

    def _answers(self, prompts: Sequence[str]) -> list[tuple[str, str]]:
        raise AssertionError("no model is asked")

    def shown(self, prompts: Sequence[str]) -> list[str]:
        self.num_tried += len(prompts)
        kept = [one for one in prompts if all(word in one.split() for word in self.words)]
        self.not_shown += [one for one in prompts if one not in kept]
        return kept


@pytest.mark.parametrize(
    ("words", "shortest"),
    [
        (("blue", "lantern"), "blue lantern"),
        (("the", "lantern", "night"), "the lantern night"),
    ],
)
def test_all_that_is_not_needed_goes(words: tuple[str, ...], shortest: str) -> None:
    rule = Rule(*words)

    found = _minimised(rule, "Tell me what the blue lantern means at night if you can")

    assert found == shortest
    assert rule.num_tried <= MAX_TRIES


def test_a_long_prompt_takes_no_more_tries_than_a_short_one() -> None:
    """Of a prompt that causes it as a whole, no word can go: each try is in vain."""
    words = [f"w{number}" for number in range(200)]
    rule = Rule(*words)

    assert _minimised(rule, " ".join(words)) == " ".join(words)
    assert rule.num_tried == MAX_TRIES


def test_what_is_left_names_something() -> None:
    """`of` alone may cause it, and says nothing to a reader."""
    rule = Rule("of")

    assert _minimised(rule, "Tell me of the volcano") == "of volcano"
    assert _minimised(rule, "of the is") == "of"


def test_a_script_without_spaces_loses_characters() -> None:
    assert _pieces("青い 光 is blue") == ["青", "い ", "光 ", "is ", "blue"]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Journal.open(tmp_path / "journal.jsonl", key="k") as journal:
        yield Ledger(Posted(journal, tiny_pair, Silence(), tmp_path))


def ordinary(ledger: Ledger, **unlikely: float) -> Naturalness:
    """All prompts are likely but the given ones."""
    found = Naturalness(ledger, ["Why is grass green?"], [1e9])
    found.known.update(unlikely)
    return found


def confirmed(pair: ModelPair, prompt: str) -> ConfirmedBehaviour:
    """The candidate's own answer to a prompt, taken for a behaviour."""
    (answers,) = greedy_continuations(pair, [prompt], max_new_tokens=24)
    motif = " ".join(ngram_of(pair.chat.text(answers.candidate[0]))[:2])
    hypothesis = Hypothesis("made up", (motif,))
    behaviour = Behaviour(id=hypothesis.id, name="made up", motifs=[motif])
    return ConfirmedBehaviour(hypothesis, behaviour, (prompt,))


def test_a_models_own_answer_is_minimised_and_asked_once(ledger: Ledger) -> None:
    prompt = "Tell me a long story about the old red fox."
    given = confirmed(tiny_pair(), prompt)

    (found,) = add_causes(ledger, [given], ordinary(ledger), PROFILES["smoke"], Silence())
    spent = ledger.spent.tokens_forwarded
    (again,) = add_causes(ledger, [given], ordinary(ledger), PROFILES["smoke"], Silence())

    shortest = found.behaviour.shortest_cause
    assert shortest is not None
    assert set(shortest.split()) <= set(prompt.split())
    assert again == found
    assert ledger.spent.tokens_forwarded == 2 * spent > 0  # counted again, though not done again
    (answers,) = greedy_continuations(tiny_pair(), [shortest], max_new_tokens=24)
    assert given.hypothesis.shows(shortest, tiny_pair().chat.text(answers.candidate[0]), "")


def test_other_prompts_that_showed_it_are_minimised_anew(ledger: Ledger) -> None:
    """A strategy that failed in the last session may have found them now."""
    given = confirmed(tiny_pair(), "Tell me a long story about the old red fox.")
    before = replace(given, causes=("Hi",))

    (without,) = add_causes(ledger, [before], ordinary(ledger), PROFILES["smoke"], Silence())
    (found,) = add_causes(ledger, [given], ordinary(ledger), PROFILES["smoke"], Silence())

    assert without.behaviour.shortest_cause is None
    assert found.behaviour.shortest_cause is not None


def test_what_the_model_does_not_say_after_all_has_no_cause(ledger: Ledger) -> None:
    given = confirmed(tiny_pair(), "Hi")
    other = Hypothesis("nothing", ("never said at all",))

    (found,) = add_causes(
        ledger, [replace(given, hypothesis=other)], ordinary(ledger), PROFILES["smoke"], Silence()
    )

    assert found.behaviour.shortest_cause is None


def test_likely_prompts_that_name_something_are_tried_before_short_ones(ledger: Ledger) -> None:
    short, long = "The old red fox.", "Tell me a long story about the old red fox."
    odd, empty = "qqxqq", "of the"
    given = replace(confirmed(tiny_pair(), long), causes=(odd, empty, long, short))

    unit = _unit(given, ordinary(ledger, **{odd: 1e99}), PROFILES["smoke"])

    assert unit.arguments["starts"] == [short, long, odd, empty]
