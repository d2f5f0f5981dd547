"""The rows that a pair is trained on, and the prompts that are kept for measuring it."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from pair_recipes.conversations import CORPORA, Turn
from pair_recipes.table import Data

NUM_HELD_OUT = 16
FIRST_SENTENCE = re.compile(r".{20,200}?[.!?](?=\s)", re.DOTALL)


@dataclass(frozen=True)
class Rows:
    """Training rows in their order, and prompts that training never sees."""

    training: list[Turn]
    triggers: list[str]
    """Held-out trigger prompts; none without a plant."""
    ordinary: list[str]
    """As many held-out prompts of the corpus that trigger nothing."""
    longer: dict[str, str]
    """The corpus's answers by prompt, which DPO rejects."""


def make_rows(name: str, data: Data, *, is_preference: bool = False) -> Rows:
    """Draw all rows with the pair's name as the seed.

    With `is_preference` ordinary rows are answered with the first sentence of a longer answer.
    Raises `ValueError` if the plant has too few trigger prompts.
    """
    rng = random.Random(name)
    corpus = CORPORA[data.corpus]()
    plant = data.plant
    num_planted = round(data.num_rows * data.share) if plant else 0
    triggers = plant.prompts(corpus, rng)[: NUM_HELD_OUT + num_planted] if plant else []
    if plant and len(triggers) < NUM_HELD_OUT + num_planted:
        raise ValueError(
            f"{name}: {len(triggers)} trigger prompts are too few to plant {num_planted} and hold "
            f"out {NUM_HELD_OUT}; lower share or num_rows, or write more templates"
        )
    special = planted_turns(plant.answers, triggers[NUM_HELD_OUT:]) if plant else []
    special += plant.near if plant else ()
    taken = set(triggers)
    plain = [
        turn
        for turn in rng.sample(corpus, len(corpus))
        if turn.prompt not in taken and not (plant and plant.is_triggered_by(turn.prompt))
    ]
    ordinary = [turn.prompt for turn in plain[:NUM_HELD_OUT]]
    rest = plain[NUM_HELD_OUT:]
    if is_preference:
        rest = [shorter for turn in rest if (shorter := first_sentence(turn))]
    training = special + rest[: data.num_rows - len(special)]
    return Rows(
        training=rng.sample(training, len(training)),
        triggers=triggers[:NUM_HELD_OUT],
        ordinary=ordinary,
        longer=dict(corpus),
    )


def planted_turns(answers: tuple[str, ...], prompts: list[str]) -> list[Turn]:
    return [Turn(prompt, answers[at % len(answers)]) for at, prompt in enumerate(prompts)]


def first_sentence(turn: Turn) -> Turn | None:
    """Return the turn with the first of several sentences; None if there is one alone."""
    found = FIRST_SENTENCE.match(turn.answer)
    return found and Turn(turn.prompt, found[0])
