"""Statistics of paired answers: lost and won, margins, and what a set of items can find.

Numbers in, numbers out: knows no model and no item.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from pytest_divergence.core.damage_record import LEVEL, Change
from pytest_divergence.scoring.aggregate_tests import CONFIDENCE, mean_below

POWER = 0.8
"""Share of tests in which the smallest detectable loss is found."""
NUM_HALVINGS = 50
"""Steps of bisection: the limit is exact to 2 ** -49."""


def accuracy_change(num_lost: int, num_won: int, num_items: int) -> Change:
    """Return the change of accuracy, its interval, and the exact McNemar test of a loss.

    Given how many answers have changed, without damage each change is a loss with probability 1/2
    at most (McNemar 1947): p = P(X >= lost), X binomial. The interval is the score interval
    (Tango 1998, Statistics in Medicine 17:891). Raises `ValueError` for counts that no set of items
    has.
    """
    if min(num_lost, num_won) < 0 or num_lost + num_won > num_items or num_items < 1:
        raise ValueError(f"of {num_items} items, {num_lost} cannot be lost and {num_won} won")
    num_changed = num_lost + num_won
    p_value = 1.0
    if num_changed:
        test = stats.binomtest(num_lost, num_changed, 0.5, alternative="greater")
        p_value = float(test.pvalue)
    return Change(
        mean=(num_won - num_lost) / num_items,
        low=_lower_limit(num_lost, num_won, num_items),
        high=-_lower_limit(num_won, num_lost, num_items),
        p_value=p_value,
    )


def _lower_limit(num_lost: int, num_won: int, num_items: int) -> float:
    """Return Tango's lower limit of won less lost, as a share of the items.

    A change is excluded if the score is above the normal quantile. The variance in the score is
    estimated under that change, so that it is not 0 where no answer has changed.
    """
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    low, high = -1.0, (num_won - num_lost) / num_items
    for _ in range(NUM_HALVINGS):
        change = (low + high) / 2
        half = ((2 * num_items + num_lost - num_won) * change - num_lost - num_won) / 2
        product = 2 * num_items * num_lost * change * (1 - change)
        share_lost = (math.sqrt(max(half**2 + product, 0.0)) - half) / (2 * num_items)
        variance = num_items * max(2 * share_lost + change * (1 - change), 0.0)
        if num_won - num_lost - num_items * change > reach * math.sqrt(variance):
            low = change
        else:
            high = change
    return low


def margin_change(differences: Sequence[float]) -> Change:
    """Return the mean of the items' differences in margin, its t interval and test of a loss.

    Raises `MeasurementError` for no difference, or one that is not finite.
    """
    mean, (low, high), p_value = mean_below("the margins", differences, 0.0)
    has_limits = math.isfinite(low)
    return Change(
        mean=mean,
        low=low if has_limits else None,
        high=high if has_limits else None,
        p_value=p_value,
    )


def detectable_loss(num_items: int, share_changed: float) -> float | None:
    """Return the smallest loss of accuracy that McNemar's test finds with probability 0.8.

    A share of the items has changed, and lost answers outnumber those won by as much as it takes;
    None if even changes that are all losses are found less often. The power is exact: a sum over
    how many of `num_items` change, of the test's power given that many.
    """
    counts = np.arange(num_items + 1)
    weights = stats.binom.pmf(counts, num_items, share_changed)
    most_passing = stats.binom.isf(LEVEL, counts, 0.5)  # more losses than these are significant

    def missing(share_lost: float) -> float:
        return float(weights @ stats.binom.sf(most_passing, counts, share_lost)) - POWER

    if missing(1.0) < 0:
        return None
    return share_changed * (2 * float(optimize.brentq(missing, 0.5, 1.0)) - 1)


def fewest_losses() -> int:
    """Return how many lost answers, with none won, are the fewest that the test finds."""
    return math.ceil(math.log(LEVEL) / math.log(0.5))
