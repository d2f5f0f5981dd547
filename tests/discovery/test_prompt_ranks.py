"""Limits of how many ordinary prompts stand above a user's prompt, tried on drawn leaps."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_divergence.discovery.prompt_ranks import NUM_CONTROLS, ordinary_above


@pytest.mark.parametrize("num_above", [0, 1, 5, 20])
@pytest.mark.parametrize("num_prompts", [20, 149, 1000])
def test_more_ordinary_prompts_than_the_limit_are_rare(num_prompts: int, num_above: int) -> None:
    """A user's prompt, just above the next control: `num_above` of the controls are higher."""
    random = np.random.default_rng(1)
    controls = np.sort(random.random((4000, NUM_CONTROLS)))
    leap = controls[:, NUM_CONTROLS - 1 - num_above]
    above = random.binomial(num_prompts, 1 - leap)

    expected, limit = ordinary_above(num_prompts, num_above, NUM_CONTROLS)

    assert above.mean() == pytest.approx(expected, rel=0.07)
    assert 0.01 < np.mean(above > limit) <= 0.057
    assert np.mean(above > expected) > 0.2  # the mean is no limit


def test_below_all_controls_every_prompt_may_be_ordinary() -> None:
    assert ordinary_above(30, 64, 64) == (30, 30)
    assert ordinary_above(30, 0, 0) == (30, 30)
