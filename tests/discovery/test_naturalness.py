"""Prompts that a person could write are told from others by ordinary prompts of their length."""

from __future__ import annotations

import pytest

from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.naturalness import Naturalness
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import prompt_nlls

SHORT = [f"Why is it {number}?" for number in range(30)]
LONG = [f"{text} Please tell me all that you know of it, and take your time." for text in SHORT]
QUESTION = "Why does bread rise?"


def by_length(ledger: Ledger, **known: float) -> Naturalness:
    """Short ordinary prompts at 6 nats per token, and long ones at 3; `known` are others."""
    nlls = [6.0] * len(SHORT) + [3.0] * len(LONG)
    found = Naturalness(ledger, [*SHORT, *LONG], nlls)
    found.known.update(known)
    return found


def test_a_short_prompt_may_be_less_likely_a_token_than_a_long_one(ledger: Ledger) -> None:
    longer = f"{QUESTION} My grandmother always let hers stand near the oven for a night."
    found = by_length(ledger, **{QUESTION: 5.0, longer: 5.0})

    assert found.is_natural(QUESTION)
    assert not found.is_natural(longer)
    found.known[longer] = 2.9
    assert found.is_natural(longer)


@pytest.mark.parametrize("prompt", ["of", "Bread rises", "What is it for?", "2 + 2 ="])
def test_few_words_and_words_that_name_nothing_are_no_prompt(ledger: Ledger, prompt: str) -> None:
    found = by_length(ledger, **{prompt: 0.1})

    assert found.is_likely(prompt)
    assert not found.is_natural(prompt)


def test_each_prompt_is_measured_once(ledger: Ledger, pair: ModelPair) -> None:
    found = by_length(ledger)

    found.measure([QUESTION, QUESTION, SHORT[0]])
    spent = ledger.spent.tokens_forwarded
    (expected,) = prompt_nlls(pair, pair.reference, [QUESTION])

    assert found.nll(QUESTION) == pytest.approx(expected, abs=1e-5)
    assert ledger.spent.tokens_forwarded == spent > 0
    assert found.nll(SHORT[0]) == 6.0
