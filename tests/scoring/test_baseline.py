"""Noise floor, typical shift and the bound made from both."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pytest_divergence.core.errors import MeasurementError, NonFiniteLogitsError
from pytest_divergence.core.provenance import NoiseFloor
from pytest_divergence.core.verdicts import ARITHMETIC_FLOOR
from pytest_divergence.scoring.baseline import (
    automatic_bound,
    measure_noise_floor,
    nll_limit,
    noise_readings,
    prediction_limit,
    typical_shift,
)
from pytest_divergence.scoring.scorer import score_prompts
from tests.models_in_memory import local, tiny_pair

FLOOR = NoiseFloor(value=0.01, num_measurements=60)


def lognormal(count: int, seed: int) -> list[float]:
    """Values whose logs are normal."""
    return [float(value) for value in np.exp(np.random.default_rng(seed).normal(-2, 0.7, count))]


def test_a_pair_that_hardly_differs_is_bounded_by_the_noise_floor() -> None:
    bound = automatic_bound(FLOOR.value, [1e-4] * 64, 100)

    assert bound.value == pytest.approx(0.03)
    assert bound.label == "auto: 3 x noise floor"


def test_one_odd_control_is_within_the_bound_and_does_not_decide_it() -> None:
    plain = [0.1 * 1.01**index for index in range(63)]
    bound = automatic_bound(FLOOR.value, [*plain, 9.0], 150)

    assert bound.value == 9.0
    assert bound.label == "auto: largest of 64 controls"
    assert bound.value == max(bound.parts.values())
    assert list(bound.parts) == [
        "3 x noise floor",
        "largest of 64 controls",
        "nominal 5% limit for 150 prompts",
    ]


def test_the_limit_scales_with_the_values_and_rises_with_the_prompts() -> None:
    values = lognormal(64, seed=2)
    limit = prediction_limit(values, 100)

    assert prediction_limit([10 * value for value in values], 100) == pytest.approx(10 * limit)
    assert limit < prediction_limit(values, 1_000)
    assert prediction_limit([0.2] * 64, 100) == pytest.approx(0.2)


def test_small_values_do_not_raise_the_limit() -> None:
    """Answers of one token, say, on which any two models agree."""
    values = sorted(lognormal(64, seed=3))
    smaller = [value / 1_000 for value in values[:24]]

    assert prediction_limit([*smaller, *values[24:]], 100) == prediction_limit(values, 100)


@pytest.mark.parametrize(("num_controls", "num_prompts"), [(20, 40), (61, 150)])
def test_normal_logs_exceed_the_bound_in_one_of_twenty_searches(
    num_controls: int, num_prompts: int
) -> None:
    """Three sigma are allowed; a limit that nothing exceeds would be too high."""
    rng, num_runs = np.random.default_rng(0), 1_000
    num_over = sum(
        float(np.exp(rng.standard_normal(num_prompts)).max())
        > automatic_bound(1e-6, list(np.exp(rng.standard_normal(num_controls))), num_prompts).value
        for _ in range(num_runs)
    )

    assert 0.01 * num_runs < num_over < 0.07 * num_runs


def test_divergences_at_the_noise_floor_do_not_narrow_the_bound() -> None:
    """Two models that hardly differ, such as a model and its rounded copy, agree on most prompts.

    What they agree on reads the floor, 8 of 10 here; with 9 of 10 there, 12 % of searches exceed
    the bound.
    """
    rng, num_runs, floor = np.random.default_rng(0), 1_000, float(np.exp(stats.norm.ppf(0.8)))
    num_over = sum(
        float(np.exp(rng.standard_normal(106)).max())
        > automatic_bound(floor, list(np.exp(rng.standard_normal(64))), 106).value
        for _ in range(num_runs)
    )

    assert 0.01 * num_runs < num_over < 0.1 * num_runs


def test_typical_shift_summarises_the_controls() -> None:
    summary = typical_shift([0.0] * 99 + [1.0])

    assert summary.mean == pytest.approx(0.01)
    assert summary.max == 1.0
    assert summary.num_controls == 100
    assert 0 < summary.p99 < 1
    with pytest.raises(MeasurementError, match="at least one control"):
        typical_shift([])


def test_nll_limit_lets_almost_all_controls_pass() -> None:
    values = [float(value) for value in range(200)]

    assert sum(value > nll_limit(values) for value in values) == 1


def test_the_noise_floor_is_small_and_never_below_arithmetic() -> None:
    pair = tiny_pair()
    prompts = [f"How do I tie knot {number}?" + " Please." * number for number in range(4)]
    scores = score_prompts(pair, prompts, num_continuations=1, max_new_tokens=6)
    continuations = [one.continuations.reference[0] for one in scores]

    floor = measure_noise_floor(pair, prompts, continuations)
    with pytest.raises(MeasurementError, match="at least one prompt"):
        measure_noise_floor(pair, [], [])

    assert floor.num_measurements == 6 * len(prompts)
    assert ARITHMETIC_FLOOR <= floor.value < 1e-4


def test_59_prompts_are_read_once_each() -> None:
    pair = tiny_pair()
    prompts = [f"How do I tie knot {number}?" + " Please." * (number % 7) for number in range(59)]

    found = noise_readings(pair, prompts, [(20, 30, 40)] * 59, 59, "symmetric")

    assert len(found.values) == 59
    assert max(found.values) < 1e-4  # a model is not compared with the other one


@pytest.mark.parametrize("broken", [0, 1])
def test_the_noise_of_either_model_is_read(broken: int) -> None:
    pair = tiny_pair()
    with torch.no_grad():
        next(local(pair.sides[broken]).model.parameters()).fill_(math.nan)

    with pytest.raises(NonFiniteLogitsError):
        noise_readings(
            pair, [f"Tie knot {n}." for n in range(20)], [(20, 30)] * 20, 20, "symmetric"
        )
