"""What a suite's rows say together: growth, breadth, shift. Plain values and the rule of each.

Knows what passes; does not know how a number is computed
(`pytest_divergence.scoring.aggregate_tests`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

from pytest_divergence.core.cases import NATS_PER_TOKEN, Case
from pytest_divergence.core.settings import BUILT_IN_METRICS
from pytest_divergence.core.verdicts import judge

AggregateVerdict = Literal["passed", "failed", "inconclusive"]

WORST_FIRST: tuple[AggregateVerdict, ...] = ("failed", "inconclusive", "passed")
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
class GrownRow:
    """One row's forward KL, nats per token, stored and measured now."""

    id: str
    stored: float
    measured: float
    ratio: float
    """`measured` over `stored`, neither below the noise floor."""


@dataclass(frozen=True)
class Breadth:
    """How many ordinary prompts exceed the bound."""

    num_over: int
    num_rows: int
    bound: float
    upper: float
    """Upper 95 % limit of the share, exact."""
    p_value: float
    """One-sided, of the hypothesis that 5 % or more exceed the bound."""
    unit: str = NATS_PER_TOKEN
    """The bound's."""

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
    """The mean divergence on ordinary prompts against its own limit."""

    mean: float
    limit: float
    num_rows: int
    metric: str = BUILT_IN_METRICS[0]
    unit: str = NATS_PER_TOKEN

    @property
    def verdict(self) -> Literal["passed", "failed"]:
        """The point value decides."""
        return judge(self.mean, self.limit)


@dataclass(frozen=True)
class Aggregate:
    """All that is judged of a suite's rows together."""

    growth: Growth
    breadth: Breadth | None
    no_breadth: str
    """Why breadth is not checked, where it is not."""
    grown: tuple[GrownRow, ...]
    """The rows that grew most, the first most of all."""

    @property
    def verdict(self) -> AggregateVerdict:
        """Failed where any check failed, else inconclusive where any is, else passed."""
        found = {self.growth.verdict}
        if self.breadth is not None:
            found.add(self.breadth.verdict)
        return next(verdict for verdict in WORST_FIRST if verdict in found)


def unit_of(row: Case) -> Hashable:
    """The unit that a row belongs to: rows that a search found from one seed are one."""
    origin = row.origin
    if row.is_control or origin is None or origin.seed is None:
        return row.id
    return origin.strategy, origin.seed


def log_ratio(new: float, old: float, floor: float) -> float:
    """ln(new / old), where values under the noise floor count as the floor."""
    return math.log(max(new, floor)) - math.log(max(old, floor))
