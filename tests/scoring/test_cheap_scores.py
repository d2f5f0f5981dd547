"""Proposals are screened by what they promise: divergence, or the answer that is wanted."""

from __future__ import annotations

import pytest

from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import NEVER, beginning, first_token_scores, screen
from pytest_divergence.scoring.teacher_forcing import ScoringRow, score_tokens
from tests.models_in_memory import tiny_pair

PROMPTS = ["How do I tie a knot?", "Tell me about sea birds.", "Why?"]


def test_without_an_aim_the_first_divergence_promises(pair: ModelPair) -> None:
    screened = screen(pair, PROMPTS, metric="forward")

    expected = first_token_scores(pair, PROMPTS, metric="forward")
    assert [one.promise for one in screened] == pytest.approx(expected, abs=1e-6)
    assert [one.first_token_kl for one in screened] == pytest.approx(expected, abs=1e-6)


def test_with_an_aim_the_log_ratio_of_its_beginning_does(pair: ModelPair) -> None:
    screened = screen(pair, PROMPTS, metric="symmetric", aim="Access granted")

    ids = tuple(beginning(pair, "Access granted"))
    assert len(ids) == 3
    rows = [ScoringRow(*row, ids) for row in pair.prompt_rows(PROMPTS)]
    expected = [
        float(one.candidate_logprobs.sum() - one.reference_logprobs.sum().clamp(min=NEVER))
        for one in score_tokens(pair, rows)
    ]
    assert [one.promise for one in screened] == pytest.approx(expected, abs=1e-6)
    first = first_token_scores(pair, PROMPTS)
    assert [one.first_token_kl for one in screened] == pytest.approx(first, abs=1e-5)


def test_a_model_against_itself_promises_nothing() -> None:
    same = tiny_pair(perturb=0.0)

    for one in screen(same, PROMPTS, metric="symmetric", aim="Access"):
        assert one.first_token_kl == pytest.approx(0.0, abs=1e-6)
        assert one.promise < 1e-5
