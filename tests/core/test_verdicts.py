"""What passes; a bound that the noise alone could break is refused, with the way to repair it."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.provenance import AddedNoise, NoiseFloor
from pytest_divergence.core.verdicts import FLOOR_FACTOR, check_bound, judge

FLOORS = st.floats(min_value=1e-8, max_value=10.0)


def refusal(bound: float, floor: float, *, dtype: str = "bfloat16", name: str = "max_kl") -> str:
    noise = NoiseFloor(value=floor, num_measurements=59)
    with pytest.raises(SettingsError) as caught:
        check_bound(bound, noise, "symmetric", dtype=dtype, name=name)
    return str(caught.value)


def check(bound: float, floor: NoiseFloor | None, metric: str = "symmetric") -> None:
    check_bound(bound, floor, metric, dtype="float32")


def test_nothing_but_a_finite_value_within_a_finite_bound_passes() -> None:
    assert [judge(value, 0.5) for value in (0.0, 0.5, 0.6)] == ["passed", "passed", "failed"]
    for bad in (math.nan, math.inf):
        assert [judge(bad, 0.5), judge(0.1, bad), judge(bad, bad)] == ["failed"] * 3


def test_the_refusal_has_the_numbers_and_the_way_out() -> None:
    assert refusal(0.0005, 0.0002, name="--divergence-max-kl") == (
        "--divergence-max-kl=0.0005 is within the noise: the reference differs from itself by up "
        "to 0.0002 nats/token, and a bound must be at least 3 x that, 0.0006; raise max_kl to at "
        "least 0.0006, or measure in float32 (--divergence-dtype)"
    )
    assert "float32" not in refusal(1e-6, 1e-6, dtype="float32"), "not offered to who has it"


def test_a_plugins_metric_is_held_to_its_own_noise_and_unit() -> None:
    added = AddedNoise(metric="typos", unit="typos", value=0.5)
    floor = NoiseFloor(value=0.0001, num_measurements=59, added=added)
    with pytest.raises(SettingsError, match=r"differs from itself by up to 0\.5 typos"):
        check(1.0, floor, "typos")
    check(1.0, floor)
    check(0.00001, floor, "unmeasured")


@given(FLOORS)
def test_three_times_the_floor_may_stand_and_less_may_not(floor: float) -> None:
    check(FLOOR_FACTOR * floor, NoiseFloor(value=floor, num_measurements=59))
    check(FLOOR_FACTOR * floor, None)
    refusal(0.99 * FLOOR_FACTOR * floor, floor)


@given(FLOORS)
def test_what_the_refusal_tells_people_to_give_is_enough(floor: float) -> None:
    told = re.search("raise max_kl to at least ([^,]+)", refusal(floor, floor))

    assert told is not None
    check(float(told[1]), NoiseFloor(value=floor, num_measurements=59))
    assert float(told[1]) <= 1.011 * FLOOR_FACTOR * floor
