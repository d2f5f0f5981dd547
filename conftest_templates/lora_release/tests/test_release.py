"""What an adapter must change, and what it must not."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import pytest

from pytest_divergence import ModelPair, score_prompts

MIN_EFFECT, MAX_SIDE_EFFECT = 0.05, 0.5
"""Nats per token."""


def test_it_changes_its_subject(model_pair: ModelPair, in_scope: list[str]) -> None:
    """Catch an adapter that was not loaded, or not trained: it would pass every gate."""
    effect = median(score.measurement.value for score in score_prompts(model_pair, in_scope))
    assert effect >= MIN_EFFECT, f"the adapter changes its subject by {effect:.3f} nats/token"


@pytest.mark.divergence(max_kl=MAX_SIDE_EFFECT)
def test_it_leaves_the_rest_alone(
    other_prompt: str, assert_bounded_kl: Callable[..., object]
) -> None:
    assert_bounded_kl(other_prompt)
