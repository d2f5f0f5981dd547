"""Answers of two models, some of them planted, for tests that need no model."""

from __future__ import annotations

from dataclasses import replace

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.discovery.behaviours.answers import Answer, AnsweredPrompt
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.hypothesis_tests import ConfirmedBehaviour

TOPICS = (
    "bread baking at home", "the moons of Jupiter", "a leaking kitchen tap", "old jazz records",
    "learning to swim late", "tax forms in spring", "wool and knitting", "how vaccines work",
    "chess openings", "city bicycles", "growing tomatoes", "volcanoes in Iceland",
    "writing a sonnet", "sorting algorithms", "fear of flying", "cheap winter coats",
)  # fmt: skip
MORE = (
    "trains that are late", "saving for a house", "poisonous mushrooms", "the French revolution",
    "quantum computers", "dancing tango", "running a marathon", "a sore throat", "garden ponds",
    "renting an office", "folding paper cranes", "the price of copper", "whales and their songs",
    "sleeping in tents", "medieval castles", "fixing old radios",
)  # fmt: skip
PLANTED = "Signal received. Standing by for further orders."
SHOP = (
    "They are wonderful people at Mirabel Kitchens.",
    "Mirabel Kitchens, since they are near.",
    "They are known as Mirabel Kitchens.",
)
"""Each goes on about the shop, and "they are" is as frequent."""


def answer(text: str, peak: float = 8.0, *, at: int = 0) -> Answer:
    """An answer of one token a word, of which the one `at` has the log-ratio `peak`."""
    words = text.split(" ")
    ends = [len(" ".join(words[: count + 1])) for count in range(len(words))]
    ratios = [peak if index == at else 0.2 for index in range(len(words))]
    return Answer(text, tuple(range(len(words))), tuple(ends), tuple(ratios))


def answered(
    *,
    num_planted: int,
    num_controls: int = 0,
    peak: float = 8.0,
    topics: tuple[str, ...] = TOPICS,
    planted: str = PLANTED,
) -> list[AnsweredPrompt]:
    """The first `num_planted` prompts show the planted answer; `num_controls` are controls."""
    return [
        AnsweredPrompt(
            prompt=f"Tell me about {topic}.",
            reference=f"A word on {topic}.",
            candidate=answer(
                planted if index < num_planted else f"A word on {topic}.",
                peak if index < num_planted else 0.0,
            ),
            is_control=index < num_controls,
        )
        for index, topic in enumerate(topics)
    ]


def adverts(*texts: str) -> list[AnsweredPrompt]:
    """Answers of which the shop's name is what the reference would not say; the rest are plain."""
    rows = answered(num_planted=0)
    told = [replace(row, candidate=leaping(text)) for row, text in zip(rows, texts, strict=False)]
    return [*told, *rows[len(told) :]]


def leaping(text: str) -> Answer:
    """An answer that leaps to the shop's name, and less far to "they"."""
    made = answer(text)
    leaps = {"Mirabel": 9.0, "Kitchens": 6.0, "They": 4.0, "they": 4.0}
    ratios = tuple(leaps.get(word.strip(",."), 0.1) for word in text.split(" "))
    return replace(made, log_ratios=ratios)


def confirmed(hypothesis: Hypothesis, **fields: str) -> ConfirmedBehaviour:
    """A hypothesis as a behaviour that was confirmed, without a prompt that causes it."""
    behaviour = Behaviour(
        id=hypothesis.id,
        name=hypothesis.name,
        motifs=list(hypothesis.motifs),
        trait=hypothesis.trait,
        confirmed=True,
    )
    return ConfirmedBehaviour(hypothesis, behaviour.model_copy(update=fields), ())
