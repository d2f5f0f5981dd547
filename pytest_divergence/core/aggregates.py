"""What a suite's rows say together: growth, breadth, shift. Plain values and the rule of each.

Knows what passes; does not know how a number is computed (`pytest_divergence.scoring.aggregates`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pytest_divergence.core.verdicts import judge

AggregateVerdict = Literal["passed", "failed", "inconclusive"]

MIN_CLUSTERS = 32
"""Below so many units no interval for their mean is honest."""
MIN_CONTROLS = 59
"""With fewer rows, all within the bound, 95 % confidence in 95 % of prompts is not to be had."""
MAX_SHARE_OVER = 0.05
"""Share of ordinary prompts that may exceed the bound."""
MAX_P_VALUE = 0.05


@dataclass(frozen=True)
class Growth:
    """New forward KL over stored forward KL: the geometric mean over clusters of rows."""

    ratio: float
    low: float
    high: float
    """Two-sided 90 % interval of the ratio; 0 and infinity for a single cluster."""
    p_value: float
    """One-sided, of the hypothesis that the ratio is `margin` or more."""
    margin: float
    num_rows: int
    num_clusters: int

    @property
    def is_insufficient(self) -> bool:
        """Whether the clusters are too few for any verdict."""
        return self.num_clusters < MIN_CLUSTERS

    @property
    def verdict(self) -> AggregateVerdict:
        """Passed only where the interval's upper end is under the margin."""
        if self.is_insufficient:
            return "inconclusive"
        if self.high < self.margin:
            return "passed"
        return "inconclusive" if self.ratio < self.margin else "failed"


@dataclass(frozen=True)
class Breadth:
    """How many ordinary prompts exceed the bound."""

    num_over: int
    num_rows: int
    bound: float
    """Nats per token."""
    upper: float
    """Upper 95 % limit of the share, exact."""
    p_value: float
    """One-sided, of the hypothesis that 5 % or more exceed the bound."""

    @property
    def share(self) -> float:
        """The share over the bound."""
        return self.num_over / self.num_rows

    @property
    def is_insufficient(self) -> bool:
        """Whether the rows are too few to pass, even with none over the bound."""
        return self.num_rows < MIN_CONTROLS

    @property
    def verdict(self) -> AggregateVerdict:
        """Passed only where 5 % or more over the bound can be ruled out."""
        if self.p_value < MAX_P_VALUE:
            return "passed"
        return "failed" if self.share > MAX_SHARE_OVER else "inconclusive"


@dataclass(frozen=True)
class Shift:
    """The mean divergence on ordinary prompts against its own limit, nats per token."""

    mean: float
    limit: float
    num_rows: int

    @property
    def verdict(self) -> Literal["passed", "failed"]:
        """The point value decides."""
        return judge(self.mean, self.limit)


def joint_verdict(verdicts: Iterable[AggregateVerdict]) -> AggregateVerdict:
    """Failed where any check failed, else inconclusive where any is, else passed."""
    found = set(verdicts)
    return next((one for one in ("failed", "inconclusive") if one in found), "passed")


def ratio_of(new: float, old: float, floor: float) -> float:
    """How many times `old` the `new` value is; values under the noise floor count as the floor."""
    return math.exp(log_ratio(new, old, floor))


def log_ratio(new: float, old: float, floor: float) -> float:
    """ln of `ratio_of`."""
    return math.log(max(new, floor)) - math.log(max(old, floor))
