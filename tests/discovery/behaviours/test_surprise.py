"""The reference's surprise at a phrase: its own log-probabilities, at many places."""

from __future__ import annotations

import torch

from pytest_divergence.discovery.behaviours.surprise import (
    NUM_BEGINNINGS,
    NUM_FURTHER,
    Place,
    ordinary_places,
    surprises,
)
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.models.pair import ModelPair
from tests.discovery.behaviours.made_answers import MORE, TOPICS, answered
from tests.models_in_memory import bare_logits, local


def plain_surprise(pair: ModelPair, place: Place, phrase: str) -> float:
    """-ln p of a phrase by one forward pass of the bare model."""
    tokenizer = pair.chat.tokenizer
    prompt = list(pair.chat.prompt_ids(place.prompt))
    before = tokenizer.encode(place.opening, add_special_tokens=False)
    ids = tokenizer.encode(f"{place.opening} {phrase}".strip(), add_special_tokens=False)
    assert ids[: len(before)] == before
    rest = ids[len(before) :]
    with torch.no_grad():
        logits = bare_logits(local(pair.reference).model, torch.tensor([[*prompt, *ids]]))
    start = len(prompt) + len(before) - 1
    logprobs = logits[start : start + len(rest)].log_softmax(-1)
    return -float(logprobs[range(len(rest)), rest].sum())


def test_it_is_the_models_own_probability(ledger: Ledger, pair: ModelPair) -> None:
    places = [
        Place("What is bread?"),
        Place("What is bread?", "Bread is old."),
        Place("Tell me a very long story about the old red fox.", "Once"),
    ]
    phrases = ["Signal received.", "Yes"]

    found = surprises(ledger, phrases, places)

    for phrase, values in zip(phrases, found, strict=True):
        for place, value in zip(places, values, strict=True):
            assert abs(value - plain_surprise(pair, place, phrase)) < 1e-3


def test_no_phrase_or_no_place_costs_nothing(ledger: Ledger) -> None:
    assert surprises(ledger, [], [Place("What is bread?")]) == []
    assert surprises(ledger, ["Yes"], []) == [[]]
    assert ledger.spent.tokens_forwarded == 0


def test_places_are_beginnings_then_those_behind_an_answers_parts() -> None:
    controls = answered(num_planted=0, topics=(*TOPICS, *MORE), num_controls=99)

    places = ordinary_places(controls)

    beginnings = [place for place in places if not place.opening]
    assert [place.prompt for place in beginnings] == [
        control.prompt for control in controls[:NUM_BEGINNINGS]
    ]
    further = places[len(beginnings) :]
    assert len(further) == 2 * NUM_FURTHER
    assert {place.opening[-1] for place in further[:NUM_FURTHER]} == {"."}
    assert all(place.opening.startswith("A word") for place in further)
    assert not any(place.opening.endswith(".") for place in further[NUM_FURTHER:])
