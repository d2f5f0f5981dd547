"""Growth, breadth and shift: identities, cases worked by hand, and the formulas of the books."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from pytest_divergence.core.aggregates import Growth
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.scoring.aggregate_tests import breadth, non_inferiority, shift

FLOOR = 1e-6
NAN, INF = float("nan"), float("inf")


def log_normal(num_rows: int, *, seed: int = 0, spread: float = 0.5) -> list[float]:
    drawn: list[float] = np.random.default_rng(seed).lognormal(-2.0, spread, num_rows).tolist()
    return drawn


def grown(old: list[float], factor: float, *, spread: float = 0.1) -> list[float]:
    noise = log_normal(len(old), seed=1, spread=spread)
    return [value * factor * one * math.exp(2.0) for value, one in zip(old, noise, strict=True)]


def compare(new: list[float], old: list[float]) -> Growth:
    return non_inferiority(new, old, FLOOR)


# Growth


def test_unchanged_values_have_a_ratio_of_one_and_no_interval() -> None:
    old = log_normal(64)

    growth = compare(old, old)

    assert (growth.ratio, growth.low, growth.high, growth.p_value) == (1.0, 1.0, 1.0, 0.0)
    assert (growth.num_rows, growth.verdict) == (64, "passed")


def test_the_unit_of_kl_does_not_matter() -> None:
    old = log_normal(64)
    new = grown(old, 1.1)

    scaled = non_inferiority([7 * x for x in new], [7 * x for x in old], 7 * FLOOR)

    assert scaled.ratio == pytest.approx(compare(new, old).ratio, rel=1e-12)
    assert scaled.p_value == pytest.approx(compare(new, old).p_value, rel=1e-9)


def test_growth_there_and_back_is_the_inverse() -> None:
    old = log_normal(64)
    new = grown(old, 1.3)
    there, back = compare(new, old), compare(old, new)

    assert there.ratio * back.ratio == pytest.approx(1, rel=1e-12)
    assert there.low * back.high == pytest.approx(1, rel=1e-12)


def test_it_is_the_t_test_of_the_log_ratios() -> None:
    old = log_normal(40)
    new = grown(old, 1.15, spread=0.6)
    ratios = np.log(new) - np.log(old)
    error = ratios.std(ddof=1) / math.sqrt(40)
    student = stats.t(df=39)

    growth = compare(new, old)

    assert growth.ratio == pytest.approx(math.exp(ratios.mean()))
    assert growth.low == pytest.approx(math.exp(ratios.mean() - student.ppf(0.95) * error))
    assert growth.high == pytest.approx(math.exp(ratios.mean() + student.ppf(0.95) * error))
    assert growth.p_value == pytest.approx(student.cdf((ratios.mean() - math.log(1.25)) / error))


@pytest.mark.parametrize(
    ("factor", "spread", "verdict", "is_shown"),
    [
        (0.2, 0.1, "passed", False),
        (1.2, 0.1, "passed", False),
        (1.2, 0.5, "inconclusive", False),
        (1.6, 0.1, "failed", True),
        (1.35, 1.0, "failed", False),
    ],
)
def test_the_burden_of_proof_lies_on_the_candidate(
    factor: float, spread: float, verdict: str, *, is_shown: bool
) -> None:
    """Growth is shown only where the whole interval is above the margin."""
    old = log_normal(64)

    growth = compare(grown(old, factor, spread=spread), old)

    assert (growth.verdict, growth.is_shown) == (verdict, is_shown)
    assert (growth.p_value < 0.05) == (verdict == "passed")


def test_equal_growth_of_all_rows_is_decided_by_the_point() -> None:
    old = log_normal(40)
    for factor, verdict, p_value in ((1.2, "passed", 0), (1.3, "failed", 1)):
        growth = compare([factor * value for value in old], old)
        assert growth.low == growth.high == growth.ratio == pytest.approx(factor)
        assert (growth.verdict, growth.p_value) == (verdict, p_value)
    equal = non_inferiority([0.1] * 100, [0.3] * 100, FLOOR)
    assert equal.low == equal.high == equal.ratio, "equal rows leave no rounding error"
    noise = compare([9e-7] * 40, [-1e-9] * 40)
    assert (noise.ratio, noise.verdict) == (1.0, "passed"), "differences below the floor"


@pytest.mark.parametrize("num_rows", [1, 2, 31])
def test_fewer_than_32_rows_are_no_evidence_in_either_direction(num_rows: int) -> None:
    for factor in (1.0, 5.0):
        old = log_normal(num_rows)
        growth = compare(grown(old, factor), old)
        assert growth.verdict == "inconclusive"
        assert growth.is_insufficient
        assert (growth.high == INF) == (num_rows == 1), "a single row has no interval"


# Breadth


def test_32_rows_within_the_bound_are_the_fewest_that_pass() -> None:
    """A search leaves rows out that show a behaviour; the rest must still be able to pass."""
    assert breadth([0.1] * 32, 0.2).verdict == "passed"
    few = breadth([0.1] * 31, 0.2)
    assert (few.verdict, few.is_insufficient) == ("inconclusive", True)


def test_rows_within_the_bound_worked_by_hand() -> None:
    found = breadth([0.1] * 64, 0.2)

    assert found.share == 0
    assert found.p_value == pytest.approx(0.95**64)
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 64))


def test_a_value_at_the_bound_is_within_it() -> None:
    assert breadth([0.2] * 64, 0.2).num_over == 0
    assert breadth([math.nextafter(0.2, 1)] * 64, 0.2).num_over == 64


@pytest.mark.parametrize("num_rows", [59, 200])
def test_p_value_and_upper_limit_give_one_verdict(num_rows: int) -> None:
    for num_over in range(num_rows // 5):
        found = breadth([1.0] * num_over + [0.0] * (num_rows - num_over), 0.5)
        assert found.num_over == num_over
        assert (found.upper < 0.05) == (found.p_value < 0.05) == (found.verdict == "passed")


@pytest.mark.parametrize(
    ("num_over", "verdict"), [(0, "passed"), (4, "passed"), (5, "inconclusive"), (11, "failed")]
)
def test_200_rows_may_have_4_over_the_bound(num_over: int, verdict: str) -> None:
    assert breadth([1.0] * num_over + [0.0] * (200 - num_over), 0.5).verdict == verdict


# Shift


def test_the_mean_decides_about_the_shift() -> None:
    assert shift([0.1, 0.3], 0.2).verdict == "passed"
    found = shift([0.1, 0.4], 0.2)
    assert (found.mean, found.num_rows, found.verdict) == (0.25, 2, "failed")


# What cannot be judged


@pytest.mark.parametrize(
    "judge",
    [
        lambda wrong: compare([0.1] * 39 + [wrong], [0.1] * 40),
        lambda wrong: compare([0.1] * 40, [wrong] + [0.1] * 39),
        lambda wrong: non_inferiority([0.1] * 40, [0.1] * 40, wrong),
        lambda wrong: non_inferiority([0.1] * 40, [0.1] * 40, FLOOR, margin=wrong),
        lambda wrong: breadth([0.1] * 63 + [wrong], 0.2),
        lambda wrong: breadth([0.1] * 64, wrong),
        lambda wrong: shift([0.1, wrong], 0.2),
        lambda wrong: shift([0.1], wrong),
    ],
    ids=["new", "old", "floor", "margin", "control", "bound", "shifted", "limit"],
)
def test_a_number_that_is_not_finite_is_an_error(
    judge: Callable[[float], object],
) -> None:
    for wrong in (NAN, INF, -INF):
        with pytest.raises(MeasurementError, match=f"is {wrong}, not a finite number"):
            judge(wrong)


def test_arguments_that_make_no_sense_are_refused() -> None:
    for judge in (lambda: compare([], []), lambda: breadth([], 0.1), lambda: shift([], 0.1)):
        with pytest.raises(MeasurementError, match="measured on no row"):
            judge()
    with pytest.raises(ValueError, match="need one entry a row; got 2, 1"):
        non_inferiority([0.1, 0.2], [0.1], FLOOR)
    with pytest.raises(ValueError, match=r"floor=0.* must be above 0, and margin=1\.25"):
        non_inferiority([0.1], [0.1], 0.0)
    with pytest.raises(ValueError, match="margin=1 above 1"):
        non_inferiority([0.1], [0.1], FLOOR, margin=1)
