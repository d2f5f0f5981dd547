"""Surprise of the reference at a phrase: how unlikely it is to say it, whatever it is asked.

A phrase that the reference says readily somewhere belongs to how answers are worded; one that it
says nowhere brings something new. Many places are tried: the beginning of answers to ordinary
prompts, the place behind a first sentence, and the middle of one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

import torch

from pytest_divergence.core.replies import parts_of
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.teacher_forcing import ScoringRow, continuation_log_probs

NUM_BEGINNINGS = 16
NUM_FURTHER = 8
"""Places behind a first sentence, and as many in the middle of one."""
MAX_CHARACTERS = 120
"""Longest prompt whose answer is a place to try: longer ones cost more than they tell."""
FIRST_SENTENCE = re.compile(r".{8,}?[.!?](?=\s|$)", re.DOTALL)


class Place(NamedTuple):
    """A prompt, and the beginning of an answer behind which a phrase may stand."""

    prompt: Prompt
    opening: str = ""


def ordinary_places(controls: Sequence[AnsweredPrompt]) -> list[Place]:
    """Return places in the reference's answers to ordinary prompts, as many as there are."""
    short = [control for control in controls if len(control.prompt) <= MAX_CHARACTERS]
    places = [Place(control.prompt) for control in short[:NUM_BEGINNINGS]]
    rest = short[NUM_BEGINNINGS:] or short
    answers = [(control.prompt, parts_of(control.reference)[1] or "") for control in rest]
    places += [
        Place(prompt, found.group())
        for prompt, answer in answers
        if (found := FIRST_SENTENCE.match(answer.strip()))
    ][:NUM_FURTHER]
    places += [
        Place(prompt, " ".join(words[: len(words) // 2]))
        for prompt, answer in reversed(answers)
        if len(words := answer.split()) > 1
    ][:NUM_FURTHER]
    return places


class Surprise:
    """The reference's smallest surprise at phrases in its ordinary answers, each measured once."""

    def __init__(self, ledger: Ledger, controls: Sequence[AnsweredPrompt]) -> None:
        self._ledger = ledger
        self._places = ordinary_places(controls)
        self.known: dict[str, float] = {}
        """Nats by the phrases that were measured."""

    def at(self, phrases: Sequence[str]) -> Mapping[str, float]:
        """Return the nats of all phrases so far, with these; of none if there are no controls."""
        new = [phrase for phrase in phrases if phrase not in self.known]
        for phrase, values in zip(new, surprises(self._ledger, new, self._places), strict=True):
            if values:
                self.known[phrase] = min(values)
        return self.known


def surprises(ledger: Ledger, phrases: Sequence[str], places: Sequence[Place]) -> list[list[float]]:
    """Return -ln p(phrase) under the reference at each place, in nats: a list a phrase."""
    if not phrases or not places:
        return [[] for _ in phrases]
    unit = WorkUnit.of("surprise", _measure, phrases=phrases, places=places)
    found: list[list[float]] = ledger.result(unit)
    return found


def _measure(
    worker: Worker, *, phrases: Sequence[str], places: Sequence[Place]
) -> list[list[float]]:
    pair = worker.pair
    with pair.reuse_prompts():
        found = []
        for phrase in phrases:
            rows = [row_at(pair, place, phrase) for place in places]
            logprobs = continuation_log_probs(pair.reference, rows)
            found.append([-float(each.double().sum()) for each in logprobs])
        return found


def row_at(pair: ModelPair, place: Place, phrase: str) -> ScoringRow:
    """Return the phrase's tokens as the continuation of a prompt and the opening before it."""
    prefix, body = pair.prompt_rows([place.prompt])[0]
    before = _ids(pair, place.opening)
    ids = _ids(pair, f"{place.opening} {phrase}".strip())
    # A tokenizer may join the end of the opening with the phrase.
    pairs = zip(before, ids, strict=False)
    num_shared = sum(1 for _ in takewhile(lambda both: both[0] == both[1], pairs))
    read = torch.cat([body, torch.tensor(ids[:num_shared], dtype=torch.long)])
    return ScoringRow(prefix, read, tuple(ids[num_shared:]))


def _ids(pair: ModelPair, text: str) -> list[int]:
    ids: list[int] = pair.chat.tokenizer.encode(text, add_special_tokens=False)
    return ids
