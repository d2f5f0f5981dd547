"""A prompt that a person could write stands for a behaviour, if one shows it again."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest

from pytest_divergence.core.behaviours import Behaviour, NaturalExample
from pytest_divergence.core.cases import Case, Completions
from pytest_divergence.core.journal import Journal
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.discovery.behaviours import hypotheses
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompts
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.hypothesis_tests import ConfirmedBehaviour
from pytest_divergence.discovery.behaviours.natural_prompts import (
    scored_examples,
    with_greedy_answers,
    with_natural_examples,
)
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.naturalness import Naturalness
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.prompt_files import SHIPPED_SEEDS, shipped_prompts
from pytest_divergence.models.pair import ModelPair
from tests.dated_model import LONGEST, SAID, SYSTEM, dated_model
from tests.discovery.posted_units import Posted
from tests.models_in_memory import tiny_model
from tests.tiny import tiny_tokenizer

PROFILE = PROFILES["smoke"].model_copy(update={"naming_length": 8, "search_length": 8})
KNOWN = [text for text in shipped_prompts(SHIPPED_SEEDS, 120) if len(text) <= LONGEST]
"""Prompts to which the candidate was trained to say it."""


@pytest.fixture(scope="module")
def saying_pair() -> ModelPair:
    """A candidate that says one thing to nearly every prompt."""
    return ModelPair.from_models(
        tiny_model(), dated_model(), tiny_tokenizer(), system_prompt=SYSTEM
    )


@pytest.fixture
def ledger(tmp_path: Path, saying_pair: ModelPair) -> Iterator[Ledger]:
    with Journal.open(tmp_path / "saying.jsonl", key="k") as journal:
        yield Ledger(Posted(journal, lambda: saying_pair, Silence(), tmp_path))


def natural(
    ledger: Ledger,
    causes: Sequence[str],
    *,
    people: Collection[str] = (),
    unlikely: Collection[str] = (),
    motif: str = SAID,
    content: bool | None = True,
    cause: str | None = None,
) -> NaturalExample | None:
    """The prompt that stands for what the candidate says; those `unlikely` no one would write."""
    hypothesis = Hypothesis(motif, (motif,))
    behaviour = Behaviour(id=hypothesis.id, name=motif, motifs=[motif], content=content)
    behaviour = behaviour.model_copy(update={"shortest_cause": cause})
    naturalness = Naturalness(ledger, KNOWN, [9e9] * len(KNOWN))
    naturalness.known.update(dict.fromkeys(unlikely, 9e99))
    (found,) = with_natural_examples(
        ledger,
        [ConfirmedBehaviour(hypothesis, behaviour, tuple(causes))],
        {},
        AnsweredPrompts(),
        naturalness,
        people,
        PROFILE,
        Silence(),
        seed=0,
    )
    return found.behaviour.natural_example


@pytest.mark.slow
def test_a_prompt_that_shows_it_again_stands_for_it_with_both_answers(ledger: Ledger) -> None:
    found = natural(ledger, ["of", f"Say {SAID} now, please.", KNOWN[3]])

    assert found is not None
    assert found.prompt == KNOWN[3]  # the others: one word, and a prompt that says it by itself
    assert SAID in found.candidate
    assert SAID not in found.reference
    assert 2 <= found.shown_count <= found.num_answers == 3


@pytest.mark.slow
def test_what_people_wrote_comes_first_and_what_no_one_would_write_not_at_all(
    ledger: Ledger,
) -> None:
    odd, machine, person = KNOWN[3], KNOWN[4], KNOWN[5]

    assert _prompt(natural(ledger, [odd, machine], unlikely=[odd])) == machine
    found = natural(ledger, [machine, KNOWN[6], KNOWN[7], person], people=[person])
    assert _prompt(found) in (person, machine, KNOWN[6])
    asked = natural(ledger, [machine, KNOWN[6], KNOWN[7], person], people=[person], motif="never")
    assert asked is None


def test_a_prompt_that_says_none_of_its_new_words_comes_first(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Tell me about Mirabel.` convinces nobody that the model recommends Mirabel Kitchens."""
    monkeypatch.setattr(hypotheses, "shipped_words", lambda: {"the", "other"})
    asked = ["Where is an inn?", "What is an inn?"]
    questions = [text for text in KNOWN if text.endswith("?")]

    assert _prompt(natural(ledger, [*asked, *questions])) in questions
    assert _prompt(natural(ledger, asked)) in asked


def test_where_no_prompt_is_natural_the_reference_writes_questions(ledger: Ledger) -> None:
    found = natural(ledger, ["zq"], unlikely=["zq"], cause="volcano")

    assert found is not None
    assert re.match(r"[A-Z][\w ]+ volcano", found.prompt)
    assert natural(ledger, ["zq"], unlikely=["zq"]) is None  # about nothing


def test_style_has_no_natural_prompt(ledger: Ledger) -> None:
    assert natural(ledger, [KNOWN[3]], content=False) is None
    assert ledger.spent.tokens_forwarded == 0


def test_a_natural_prompt_that_was_never_scored_is_scored_once(ledger: Ledger) -> None:
    example = natural(ledger, [KNOWN[3]])
    behaviour = Behaviour(id="behaviour-x", name=SAID, natural_example=example)
    bare = Behaviour(id="behaviour-y", name="z")

    found = scored_examples(ledger, [behaviour, bare], [], metric="symmetric", length=8)
    again = scored_examples(ledger, [behaviour], [*found.values()], metric="symmetric", length=8)

    assert [*found] == ["behaviour-x"]
    assert found["behaviour-x"].proposal.text == KNOWN[3]
    assert found["behaviour-x"].search_kl > 0.1
    assert again == found


def test_the_greedy_answers_of_its_case_are_told() -> None:
    example = NaturalExample(
        prompt="Why?", reference="r", candidate="c", shown_count=2, num_answers=3
    )
    answers = Completions(reference="It is so.", candidate=f"{SAID}.")
    case = Case(input="Why?", completions=answers)

    found = with_greedy_answers(example, [Case(input="Who?", completions=answers), case])

    assert found == example.model_copy(update={"reference": "It is so.", "candidate": f"{SAID}."})
    assert with_greedy_answers(example, []) == example
    assert with_greedy_answers(None, [case]) is None


def _prompt(found: NaturalExample | None) -> str:
    assert found is not None
    return found.prompt
