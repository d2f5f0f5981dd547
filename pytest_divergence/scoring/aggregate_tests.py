"""Statistics over many rows: growth of KL, breadth and mean shift.

Numbers in, numbers out: knows no model, row or file. What cannot be computed is a
`MeasurementError`; NaN never becomes a verdict.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy import stats

from pytest_divergence.core.aggregates import MAX_SHARE_OVER, Breadth, Growth, Shift, log_ratio
from pytest_divergence.core.errors import MeasurementError

MARGIN = 1.25
"""Growth of forward KL that a release may not reach."""
CONFIDENCE = 0.90
"""Two-sided; each end is a one-sided 95 % limit."""
UPPER_CONFIDENCE = 0.95


def non_inferiority(
    new: Sequence[float], old: Sequence[float], floor: float, margin: float = MARGIN
) -> Growth:
    """Return the growth of forward KL as a ratio: t interval of the rows' mean log ratio.

    One entry a row; KL below `floor`, nats per token, counts as the floor. Raises
    `MeasurementError` for no rows or a number that is not finite, `ValueError` for unequal lengths,
    a floor not above 0 or a margin not above 1.
    """
    _check("forward KL", [*new, *old])
    _check("floor or margin", [floor, margin])
    if len(new) != len(old):
        raise ValueError(f"new and old need one entry a row; got {len(new)}, {len(old)}")
    if floor <= 0 or margin <= 1:
        raise ValueError(f"floor={floor} must be above 0, and margin={margin} above 1")
    ratios = [log_ratio(value, stored, floor) for value, stored in zip(new, old, strict=True)]
    mean, (low, high), p_value = mean_below("the log ratio", ratios, math.log(margin))
    return Growth(
        ratio=math.exp(mean),
        low=math.exp(low),
        high=math.exp(high),
        p_value=p_value,
        margin=margin,
        num_rows=len(new),
    )


def breadth(kls: Sequence[float], bound: float) -> Breadth:
    """Count the control rows' values that exceed the bound; a value at the bound is within it.

    An exact binomial test tells whether 5 % or more over the bound can be ruled out. Raises
    `MeasurementError` for no rows or a value that is not finite.
    """
    _check("the control rows' divergence", kls)
    _check("the bound", [bound])
    num_over = sum(value > bound for value in kls)
    just_over = math.nextafter(bound, math.inf)  # the test counts values strictly below
    test = stats.quantile_test(kls, q=just_over, p=1 - MAX_SHARE_OVER, alternative="less")
    over = stats.binomtest(num_over, len(kls), alternative="less")
    return Breadth(
        num_over=num_over,
        num_rows=len(kls),
        bound=bound,
        upper=float(over.proportion_ci(UPPER_CONFIDENCE, method="exact").high),
        p_value=float(test.pvalue),
    )


def shift(values: Sequence[float], limit: float) -> Shift:
    """Return the mean of the control rows' values with its limit, nats per token.

    Raises `MeasurementError` for no rows or a value that is not finite.
    """
    _check("the control rows' divergence", values)
    _check("the limit", [limit])
    return Shift(mean=statistics.fmean(values), limit=limit, num_rows=len(values))


def mean_below(
    what: str, values: Sequence[float], limit: float
) -> tuple[float, tuple[float, float], float]:
    """Return the mean, its 90 % t interval, and the p-value of the mean being `limit` or more.

    Raises `MeasurementError`, naming `what` the values are, for none or one that is not finite.
    """
    _check(what, values)
    mean = statistics.mean(values)
    if len(values) == 1:
        return mean, (-math.inf, math.inf), 1.0
    if math.isclose(min(values), max(values)):  # unchanged models, say: scipy would only warn
        return mean, (mean, mean), 0.0 if mean < limit else 1.0
    interval = stats.ttest_1samp(values, limit).confidence_interval(CONFIDENCE)
    below = stats.ttest_1samp(values, limit, alternative="less")
    return mean, (float(interval.low), float(interval.high)), float(below.pvalue)


def _check(what: str, values: Sequence[float]) -> None:
    if not values:
        raise MeasurementError(f"{what} was measured on no row, so there is no verdict")
    wrong = [value for value in values if not math.isfinite(value)]
    if wrong:
        raise MeasurementError(f"{what} is {wrong[0]}, not a finite number: there is no verdict")
