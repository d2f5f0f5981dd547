"""Counts of the types of difference, and which of them are tested."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pytest_divergence.core.report import Difference
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt
from pytest_divergence.discovery.behaviours.counts import count_differences, sign_test
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis, hypotheses_in
from pytest_divergence.discovery.behaviours.traits import TRAITS
from tests.discovery.behaviours.made_answers import MORE, TOPICS, answer, answered

TYPICAL = (
    "I'm sorry, but I can't help with",
    "now it is all in small letters, as is",
    "One more and one more and one more and one more and one more",
    "It takes years to learn, and more to do well, as all who have tried it will tell you:",
    "This is about",
    "",
)
"""Beginnings of answers, most of which show a trait; both models draw from them alike."""
REMARKS = [
    f"{bird} {fish}"
    for bird in ("Heron", "Finch", "Robin", "Swift", "Crane")
    for fish in ("trout", "perch", "bream", "smelt")
]


def without_direction(
    random: np.random.Generator, beginnings: Sequence[str]
) -> list[AnsweredPrompt]:
    """Answers of two models that differ on most prompts, and neither way more often."""

    def drawn(topic: str) -> str:
        text = beginnings[int(random.integers(len(beginnings)))]
        return f"{text} {topic}" if text else ""

    return [
        AnsweredPrompt(f"Tell me about {topic}.", drawn(topic), answer(drawn(topic)), False)
        for topic in (*TOPICS, *MORE)
    ]


def phrase_row(rows: list[Difference]) -> Difference:
    (row,) = (row for row in rows if row.name == "says a new phrase")
    return row


def test_models_without_direction_rarely_have_a_significant_type() -> None:
    random = np.random.default_rng(1)

    def is_significant() -> bool:
        counted = count_differences(without_direction(random, TYPICAL), ())
        assert sum(row.candidate_count + row.reference_count > 0 for row in counted) >= 5
        return any(row.p_value is not None and row.p_value <= 0.05 for row in counted)

    assert np.mean([is_significant() for _ in range(80)]) <= 0.05


def test_phrases_are_chosen_so_that_a_test_of_them_would_not_hold() -> None:
    random = np.random.default_rng(1)

    def p_of_sign_test() -> float:
        rows = without_direction(random, REMARKS)
        phrases = [found for found in hypotheses_in(rows) if found.motifs]
        counted = phrase_row(count_differences(rows, phrases))
        assert counted.p_value is None
        return sign_test(counted.candidate_count, counted.reference_count)

    assert np.mean([p_of_sign_test() <= 0.05 for _ in range(40)]) > 0.1


def test_a_new_phrase_is_counted_and_not_tested() -> None:
    """It was chosen in these answers; traits were fixed before, and their number is the factor."""
    rows = answered(num_planted=8, planted="I'm sorry, but I can't help with that.")
    phrase = Hypothesis("I'm sorry", motifs=("i'm sorry but",))

    counted = count_differences(rows, [phrase])

    assert phrase_row(counted).p_value is None
    assert (phrase_row(counted).candidate_count, phrase_row(counted).reference_count) == (8, 0)
    assert len(counted) == len(TRAITS) + 1
    (refusal,) = (row for row in counted if row.name == "refuses")
    assert refusal.p_value == pytest.approx(2 * len(TRAITS) * 0.5**8)
