"""Noise floor, typical shift and the bound made from both."""

from __future__ import annotations

import pytest

from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.provenance import NoiseFloor, TypicalShift
from pytest_divergence.core.verdicts import ARITHMETIC_FLOOR
from pytest_divergence.scoring.baseline import (
    absolute_bound,
    automatic_bound,
    measure_noise_floor,
    nll_limit,
    typical_shift,
)
from pytest_divergence.scoring.scorer import score_prompts
from tests.models_in_memory import tiny_pair

FLOOR = NoiseFloor(value=0.01, num_measurements=60)


def shift(maximum: float, *, p99: float = 0.1, num_controls: int = 256) -> TypicalShift:
    return TypicalShift(mean=0.05, p99=p99, max=maximum, num_controls=num_controls)


def test_many_controls_give_one_and_a_half_times_their_99th_percentile() -> None:
    bound = automatic_bound(FLOOR.value, shift(9.0, p99=0.2))

    assert bound.value == pytest.approx(0.3)
    assert bound.label == "auto: 1.5 x 99th percentile of controls (256 controls)"


def test_few_controls_give_their_maximum_and_say_so() -> None:
    bound = automatic_bound(FLOOR.value, shift(0.4, num_controls=64))

    assert bound.value == pytest.approx(0.6)
    assert bound.label == "auto: 1.5 x maximum of controls (64 controls)"


def test_a_pair_that_hardly_differs_is_bounded_by_the_noise_floor() -> None:
    bound = automatic_bound(FLOOR.value, shift(1e-4, p99=1e-4))

    assert bound.value == pytest.approx(0.03)
    assert bound.label == "auto: 3 x noise floor (256 controls)"


def test_the_bound_is_the_largest_of_its_parts() -> None:
    bound = automatic_bound(FLOOR.value, shift(9.0, p99=0.2))

    assert bound.value == max(bound.parts.values())
    assert len(bound.parts) == 2


def test_an_absolute_bound_is_the_option_itself() -> None:
    assert absolute_bound(0.25).value == 0.25


def test_typical_shift_summarises_the_controls() -> None:
    summary = typical_shift([0.0] * 99 + [1.0])

    assert summary.mean == pytest.approx(0.01)
    assert summary.max == 1.0
    assert summary.num_controls == 100
    assert 0 < summary.p99 < 1


def test_no_controls_are_an_error_not_a_zero() -> None:
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

    assert floor.num_measurements == 3 * len(prompts)
    assert ARITHMETIC_FLOOR <= floor.value < 1e-4


def test_the_noise_floor_needs_a_prompt() -> None:
    with pytest.raises(MeasurementError, match="at least one prompt"):
        measure_noise_floor(tiny_pair(), [], [])
