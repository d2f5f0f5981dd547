"""A bound that the noise alone could break is refused, with all that a user needs to repair it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_divergence.core.verdicts import FLOOR_FACTOR, refusal

FLOORS = st.floats(min_value=1e-8, max_value=10.0)


def test_the_refusal_has_the_numbers_and_the_way_out() -> None:
    assert refusal(0.0005, 0.0002, name="--divergence-max-kl", dtype="bfloat16") == (
        "--divergence-max-kl=0.0005 is within the noise: the reference reads up to 0.0002 "
        "nats/token against itself, and a bound must be at least 3 x that, 0.0006; raise max_kl "
        "to at least 0.0006, or measure in float32 (--divergence-dtype)"
    )


def test_float32_is_not_offered_to_who_has_it() -> None:
    assert "float32" not in str(refusal(1e-6, 1e-6, dtype="float32"))


@pytest.mark.parametrize("floor", [None, 0.0001])
def test_a_bound_clear_of_the_noise_or_of_unknown_noise_may_stand(floor: float | None) -> None:
    assert refusal(0.001, floor) is None


@given(FLOORS)
def test_three_times_the_floor_may_stand_and_less_may_not(floor: float) -> None:
    assert refusal(FLOOR_FACTOR * floor, floor) is None
    assert refusal(0.99 * FLOOR_FACTOR * floor, floor) is not None


@given(FLOORS)
def test_what_the_refusal_tells_people_to_give_is_enough(floor: float) -> None:
    told = re.search("raise max_kl to at least ([^,]+)", str(refusal(floor, floor)))

    assert told is not None
    assert refusal(float(told[1]), floor) is None
    assert float(told[1]) <= 1.011 * FLOOR_FACTOR * floor
