"""Limits for how much quantisation may change a model's answers."""

from __future__ import annotations

from statistics import fmean, median

from pytest_divergence import PromptScore

MAX_KL, MAX_TYPICAL_KL = 0.1, 0.02
"""Nats per token: for any prompt, and for the median prompt."""
MIN_SAME_TOP = 0.9
"""Share of positions at which both models would choose the same token."""


def test_no_prompt_is_over_the_bound(scores: list[PromptScore]) -> None:
    values = {score.prompt: score.measurement.value for score in scores}
    over = {prompt: value for prompt, value in values.items() if value > MAX_KL}
    assert not over


def test_the_typical_divergence_is_small(scores: list[PromptScore]) -> None:
    assert median(score.measurement.value for score in scores) <= MAX_TYPICAL_KL


def test_most_tokens_stay_the_same(scores: list[PromptScore]) -> None:
    assert fmean(score.same_top_share for score in scores) >= MIN_SAME_TOP
