"""Verdicts on a suite's rows together: growth, breadth, shift. Plain values and their rules.

Decides what passes; does not compute the numbers (`pytest_divergence.scoring.aggregate_tests`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

from pytest_divergence.core.cases import NATS_PER_TOKEN, Case
from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS
from pytest_divergence.core.verdicts import judge

AggregateVerdict = Literal["passed", "failed", "inconclusive"]

WORST_FIRST: tuple[AggregateVerdict, ...] = ("failed", "inconclusive", "passed")
MIN_CLUSTERS = 32
"""Fewer units give no honest interval for their mean."""
MIN_CONTROLS = 59
"""Rows needed for 95 % confidence in 95 % of prompts, if all are within the bound."""
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
        """Verdict: passed only if the interval's upper end is below the margin."""
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
    """Number of ordinary prompts that exceed the bound, with its test."""

    num_over: int
    num_rows: int
    bound: float
    upper: float
    """Upper 95 % limit of the share, exact."""
    p_value: float
    """One-sided, of the hypothesis that 5 % or more exceed the bound."""
    unit: str = NATS_PER_TOKEN
    """Unit of the bound."""

    @property
    def share(self) -> float:
        """Share of the rows over the bound."""
        return self.num_over / self.num_rows

    @property
    def is_insufficient(self) -> bool:
        """Whether the rows are too few to pass, even with none over the bound."""
        return self.num_rows < MIN_CONTROLS

    @property
    def verdict(self) -> AggregateVerdict:
        """Verdict: passed only if 5 % or more over the bound can be ruled out."""
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
        """Verdict on the point value."""
        return judge(self.mean, self.limit)


@dataclass(frozen=True)
class Aggregate:
    """Checks of a suite's rows together."""

    growth: Growth
    breadth: Breadth | None
    no_breadth: str
    """Reason why breadth is not checked; empty if it is."""
    grown: tuple[GrownRow, ...]
    """Rows that grew most, the largest growth first."""

    @property
    def verdict(self) -> AggregateVerdict:
        """Worst verdict of the checks."""
        found = {self.growth.verdict}
        if self.breadth is not None:
            found.add(self.breadth.verdict)
        return next(verdict for verdict in WORST_FIRST if verdict in found)


def unit_of(row: Case) -> Hashable:
    """Return the unit of a row: rows that a search found from the same seed share one."""
    origin = row.origin
    if row.is_control or origin is None or origin.seed is None:
        return row.id
    return origin.strategy, origin.seed


def log_ratio(new: float, old: float, floor: float) -> float:
    """Return ln(new / old); values below the noise floor count as the floor."""
    return math.log(max(new, floor)) - math.log(max(old, floor))
