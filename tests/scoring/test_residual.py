"""Residual divergence: what all answers have changed alike is out of it, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import first_token_scores, screen
from pytest_divergence.scoring.metrics import DIVERGENCES
from pytest_divergence.scoring.residual import common_tilt, residual_divergences
from tests.models_in_memory import styled_pair, tiny_pair

ORDINARY = ["What is a leap year?", "Why do people like jazz?", "How do I bake bread?"]
OTHERS = ["Tell me about tea.", "2 + 2"]


@pytest.fixture(scope="module")
def styled() -> ModelPair:
    return styled_pair()


@pytest.mark.parametrize("metric", DIVERGENCES)
def test_a_change_that_all_prompts_share_leaves_nothing(styled: ModelPair, metric: Any) -> None:
    tilt = common_tilt(styled, ORDINARY)

    whole = first_token_scores(styled, OTHERS, metric=metric)
    residual = residual_divergences(styled, OTHERS, tilt, metric=metric)

    assert min(whole) > 0.1
    assert residual == pytest.approx([0.0, 0.0], abs=1e-5)


def test_nothing_shared_takes_nothing_out() -> None:
    pair = tiny_pair()

    same = common_tilt(tiny_pair(perturb=0.0), ORDINARY)

    assert not same.any()
    residual = residual_divergences(pair, OTHERS, same, metric="symmetric")
    assert residual == pytest.approx(first_token_scores(pair, OTHERS), rel=1e-5)


def test_a_change_of_one_prompt_stays(styled: ModelPair) -> None:
    """What the tilt is not of: on it the residual is as large as a pair's without the style."""
    pair = tiny_pair()
    tilt = common_tilt(pair, ORDINARY)

    (own, *_), whole = (
        residual_divergences(pair, OTHERS, tilt, metric="symmetric"),
        first_token_scores(pair, OTHERS),
    )

    assert own > whole[0] / 3


def test_a_screen_ranks_by_the_residual_unless_it_aims(styled: ModelPair) -> None:
    tilt = common_tilt(styled, ORDINARY)

    screened = screen(styled, OTHERS, metric="symmetric", tilt=tilt)
    aimed = screen(styled, OTHERS, metric="symmetric", tilt=tilt, aim="signal")

    assert [each.promise for each in screened] == pytest.approx([0.0, 0.0], abs=1e-5)
    assert aimed == screen(styled, OTHERS, metric="symmetric", aim="signal")


def test_prompts_that_a_round_scores_are_read_once(styled: ModelPair) -> None:
    with styled.reuse_prompts():
        before = styled.tokens_forwarded
        tilt = common_tilt(styled, OTHERS)
        read = styled.tokens_forwarded - before
        screen(styled, OTHERS, metric="symmetric", tilt=tilt)

        assert styled.tokens_forwarded - before == read > 0
