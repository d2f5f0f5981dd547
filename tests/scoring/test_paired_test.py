"""Lost and won answers: exact numbers, error rates as stated, and the loss that can be found."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import xlogy

from pytest_divergence.core.damage_record import LEVEL, Change
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.scoring.paired_test import (
    accuracy_change,
    detectable_loss,
    fewest_losses,
    margin_change,
)

NUM_ITEMS, CHANGED = 300, 0.08
counted = cache(accuracy_change)


def simulated(share_lost: float, num_trials: int = 4000) -> list[tuple[Change, float]]:
    """Tests of item sets whose changed answers are lost with this probability, and the truth."""
    random = np.random.default_rng(1)
    changed = random.binomial(NUM_ITEMS, CHANGED, num_trials)
    lost = random.binomial(changed, share_lost)
    truth = CHANGED * (1 - 2 * share_lost)
    return [
        (counted(int(losses), int(both - losses), NUM_ITEMS), truth)
        for losses, both in zip(lost, changed, strict=True)
    ]


@pytest.mark.parametrize(
    ("lost", "won", "p_value"),
    [(0, 0, 1.0), (6, 0, 1 / 64), (5, 0, 1 / 32), (0, 6, 1.0), (10, 2, 79 / 4096)],
)
def test_mcnemar_s_test_is_exact(lost: int, won: int, p_value: float) -> None:
    found = accuracy_change(lost, won, 100)

    assert found.mean == pytest.approx((won - lost) / 100)
    assert found.p_value == pytest.approx(p_value)
    assert found.is_worse == (p_value <= LEVEL)


def test_the_fewest_losses_that_are_found_are_found() -> None:
    assert accuracy_change(fewest_losses(), 0, 50).is_worse
    assert not accuracy_change(fewest_losses() - 1, 0, 50).is_worse


def test_without_damage_a_loss_is_shown_as_rarely_as_the_level_says() -> None:
    false = np.mean([found.is_worse for found, _ in simulated(0.5)])

    assert 0.004 < false <= LEVEL + 0.004


@pytest.mark.parametrize("share_lost", [0.5, 0.75])
def test_the_limits_of_accuracy_hold_as_often_as_they_say(share_lost: float) -> None:
    trials = simulated(share_lost)
    too_high = np.mean([found.low > truth for found, truth in trials if found.low is not None])
    too_low = np.mean([found.high < truth for found, truth in trials if found.high is not None])

    assert too_high <= 0.065
    assert too_low <= 0.065


def ruled_out(num_items: int, share_changed: float, loss: float = 0.01) -> float:
    """Exact probability that a loss is ruled out although it is just as large."""
    total = 0.0
    for changed in range(int(stats.binom.isf(1e-9, num_items, share_changed)) + 1):
        weight = stats.binom.pmf(changed, num_items, share_changed)
        lost = np.arange(changed + 1)
        lows = [counted(int(losses), int(changed - losses), num_items).low or 0 for losses in lost]
        shares = stats.binom.pmf(lost, changed, (1 + loss / share_changed) / 2)
        total += float(weight * shares @ (np.array(lows) > -loss))
    return total


def test_a_loss_as_large_as_the_tolerance_is_rarely_ruled_out() -> None:
    """Most often where every change is a loss: of the fewest items that rule out a point, none
    changed, 0.99^268 is 6.8 %.
    """
    for num_items, share_changed in ((165, 0.01), (200, 0.0125), (400, 0.03)):
        assert ruled_out(num_items, share_changed) <= 0.05
    assert ruled_out(268, 0.01) == pytest.approx(0.99**268, abs=1e-6)
    assert ruled_out(267, 0.01) < 0.001
    assert ruled_out(299, 0.01) < 0.05


@pytest.mark.parametrize(("lost", "won"), [(12, 2), (0, 4)])
def test_at_its_limits_the_score_is_the_normal_quantile(lost: int, won: int) -> None:
    """As Tango derives it, with the likelihood maximised by search instead of by his formula."""
    num_items = 120
    found = accuracy_change(lost, won, num_items)
    assert found.low is not None
    assert found.high is not None

    for change, score in ((found.low, 1.645), (found.high, -1.645)):

        def unlikely(share_lost: float, change: float = change) -> float:
            shares = np.array([share_lost, share_lost + change, 1 - 2 * share_lost - change])
            return -float(xlogy([lost, won, num_items - lost - won], shares).sum())

        limits = max(0, -change), (1 - change) / 2
        share_lost = minimize_scalar(unlikely, bounds=limits, options={"xatol": 1e-9}).x
        variance = num_items * (2 * share_lost + change - change**2)
        assert (won - lost - num_items * change) / variance**0.5 == pytest.approx(score, abs=1e-3)


def test_limits_without_a_change_or_with_nothing_else() -> None:
    square = stats.norm.ppf(0.95) ** 2
    unchanged = accuracy_change(0, 0, 268)

    assert (unchanged.low, unchanged.high) == pytest.approx(
        (-square / (268 + square), square / (268 + square))
    )
    assert accuracy_change(0, 50, 50).low == pytest.approx((50 - square) / (50 + square))
    assert accuracy_change(50, 0, 50).low == -1


@pytest.mark.parametrize(("lost", "won"), [(2, 7), (10, 1), (0, 100)])
def test_lost_and_won_exchanged_exchange_the_limits(lost: int, won: int) -> None:
    found, mirrored = accuracy_change(lost, won, 100), accuracy_change(won, lost, 100)

    assert found.low is not None
    assert mirrored.high is not None
    assert found.low == -mirrored.high
    assert -1 <= found.low <= found.mean


def test_the_detectable_loss_is_found_in_four_of_five_tests() -> None:
    loss = detectable_loss(NUM_ITEMS, CHANGED)

    assert loss is not None
    shown = np.mean([found.is_worse for found, _ in simulated((1 + loss / CHANGED) / 2)])
    assert shown == pytest.approx(0.8, abs=0.02)
    assert detectable_loss(NUM_ITEMS, 0.01) is None
    assert detectable_loss(NUM_ITEMS, 0.0) is None


def test_margins_without_damage_fall_as_rarely_as_the_level_says() -> None:
    random = np.random.default_rng(2)
    trials = [margin_change(random.standard_t(4, NUM_ITEMS).tolist()) for _ in range(800)]

    assert np.mean([found.is_worse for found in trials]) == pytest.approx(LEVEL, abs=0.014)
    assert margin_change((random.standard_t(4, NUM_ITEMS) - 0.3).tolist()).is_worse


def test_equal_margins_show_nothing() -> None:
    found = margin_change([0.0] * 50)

    assert (found.mean, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert margin_change([-0.5]).low is None
    with pytest.raises(MeasurementError, match="the margins was measured on no row"):
        margin_change([])


@pytest.mark.parametrize("counts", [(1, 1, 1), (-1, 0, 5), (0, 0, 0)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be lost"):
        accuracy_change(*counts)
