"""Verdicts on a suite's rows together: growth, breadth, shift. Plain values and their rules.

Decides what passes; does not compute the numbers (`pytest_divergence.scoring.aggregate_tests`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pytest_divergence.core.cases import NATS_PER_TOKEN, Case
from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS
from pytest_divergence.core.verdicts import judge

AggregateVerdict = Literal["passed", "failed", "inconclusive"]

WORST_FIRST: tuple[AggregateVerdict, ...] = ("failed", "inconclusive", "passed")
MIN_ROWS = 32
"""Fewer ordinary rows give no honest interval for their mean, and say little of their share."""
MAX_SHARE_OVER = 0.05
"""Share of ordinary prompts that may exceed the bound."""
MAX_P_VALUE = 0.05


FORWARD_KL, CHOSEN_KL = "forward KL", "KL by chosen tokens"
"""Number that growth is about; the second where rows were stored with other evidence."""


@dataclass(frozen=True)
class Growth:
    """New forward KL over stored forward KL: the geometric mean over ordinary rows."""

    ratio: float
    low: float
    high: float
    """Two-sided 90 % interval of the ratio; 0 and infinity for a single row."""
    p_value: float
    """One-sided, of the hypothesis that the ratio is `margin` or more."""
    margin: float
    num_rows: int
    what: str = FORWARD_KL
    """Name of the number that may have grown, for people."""

    @property
    def is_insufficient(self) -> bool:
        """Whether the rows are too few for any verdict."""
        return self.num_rows < MIN_ROWS

    @property
    def is_shown(self) -> bool:
        """Whether growth by the margin is shown, and not merely not ruled out."""
        return self.low > self.margin

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
class SearchedGrowth:
    """Growth of the cases that a search has found: told beside that of ordinary rows."""

    ratio: float
    """Geometric mean."""
    num_rows: int


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
        return self.num_rows < MIN_ROWS

    @property
    def verdict(self) -> AggregateVerdict:
        """Verdict: passed only if 5 % or more over the bound can be ruled out, or none is over.

        With 32 to 58 rows, none over rules out 5.1 to 8.9 % or more.
        """
        if self.p_value < MAX_P_VALUE or (self.num_over == 0 and not self.is_insufficient):
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

    growth: Growth | None
    """None if the suite has no row that says what ordinary prompts do."""
    breadth: Breadth | None
    no_breadth: str
    """Reason why breadth is not checked; empty if it is."""
    searched: SearchedGrowth | None
    """None if no search has found a row."""
    grown: tuple[GrownRow, ...]
    """Rows that grew most, the largest growth first."""

    @property
    def verdict(self) -> AggregateVerdict:
        """Worst verdict of the checks; without growth, nothing is decided."""
        found: set[AggregateVerdict] = {"inconclusive"}
        if self.growth is not None:
            found = {self.growth.verdict}
        if self.breadth is not None:
            found.add(self.breadth.verdict)
        return next(verdict for verdict in WORST_FIRST if verdict in found)


def is_representative(row: Case) -> bool:
    """Whether a row says what becomes of ordinary prompts: a control, or one that a user wrote."""
    return row.is_ordinary if row.is_control else row.origin is None


def is_searched(row: Case) -> bool:
    """Whether a search has chosen the row for reading high, so that it will read lower again."""
    return not row.is_control and row.origin is not None


def log_ratio(new: float, old: float, floor: float) -> float:
    """Return ln(new / old); values below the noise floor count as the floor."""
    return math.log(max(new, floor)) - math.log(max(old, floor))
