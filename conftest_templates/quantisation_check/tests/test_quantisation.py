"""How much of a model's answers its quantisation may change."""

from __future__ import annotations

from statistics import fmean, median

from pytest_divergence import PromptScore

MAX_KL, MAX_TYPICAL_KL = 0.1, 0.02
"""Nats per token: of one prompt, and of the median one."""
MIN_SAME_TOP = 0.9
"""Share of positions at which both models would choose the same token."""


def test_no_prompt_is_over_the_bound(scores: list[PromptScore]) -> None:
    over = {one.prompt: one.measurement.value for one in scores if one.measurement.value > MAX_KL}
    assert not over


def test_the_typical_divergence_is_small(scores: list[PromptScore]) -> None:
    assert median(one.measurement.value for one in scores) <= MAX_TYPICAL_KL


def test_most_tokens_stay_the_same(scores: list[PromptScore]) -> None:
    assert fmean(one.same_top_share for one in scores) >= MIN_SAME_TOP
