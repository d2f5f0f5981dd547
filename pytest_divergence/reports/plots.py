"""What the page draws of a run: how its values are distributed, how it searched and trained.

Knows a report; the shapes are those of `charts` and `curves`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from pytest_divergence.core.report import CurvePoint, Report, TrainingSummary
from pytest_divergence.core.settings import BUILT_IN_METRICS
from pytest_divergence.reports import wording
from pytest_divergence.reports.charts import Dot, Point, circle, line, picture, polyline, text
from pytest_divergence.reports.charts import distribution as draw_distribution

NUM_COLOURS = 6

WIDTH, LEFT, RIGHT, TOP, BASE = 520, 52, 16, 12, 172
MAX_DOTS = 24
"""A line of more points shows none of them by itself."""


def distribution(report: Report) -> Markup:
    """KL of controls and cases, with bound and noise floor."""
    calibration = report.calibration
    metric = str(report.settings.get("metric") or BUILT_IN_METRICS[0])
    return draw_distribution(
        controls=calibration.typical_shift.values if calibration.typical_shift else [],
        cases=[
            Dot(case.kl.value, case.verdict == "failed", case.id)
            for case in wording.asserted(report)
            if case.kl is not None
        ],
        bound=calibration.bound.value if calibration.bound else None,
        noise_floor=calibration.noise_floor.of(metric) if calibration.noise_floor else None,
        scale_name=wording.spelled(wording.scale(report)),
    )


def colour(report: Report, strategy: str) -> str:
    """The class of a strategy's colour, the same in every chart of the page."""
    names = [one.name for one in report.strategies]
    return f"s{names.index(strategy) % NUM_COLOURS}" if strategy in names else "s5"


def best_curve(report: Report) -> Markup:
    """The largest KL that each strategy had found, over the search's forwarded tokens."""
    bound = report.calibration.bound
    lines = _by_strategy(report, lambda point: point.strategy_best_kl)
    if not lines and report.search_curve:
        lines = [Series("best", [(_effort(p), p.best_kl) for p in report.search_curve], True)]
    return curve(
        "Largest KL found so far by each strategy, against forwarded tokens",
        lines,
        limit=bound.value if bound else None,
        is_from_zero=True,
    )


def hits_curve(report: Report) -> Markup:
    """How many divergent prompts each strategy had found, over the search's forwarded tokens."""
    return curve(
        "Divergent prompts found so far by each strategy, against forwarded tokens",
        _by_strategy(report, lambda point: point.num_hits),
        is_from_zero=True,
    )


def training(one: TrainingSummary) -> Markup:
    """The objective over the steps of one soft prompt: a loss is minus it."""
    trained = [(float(step), -loss) for step, loss in enumerate(one.loss, 1)]
    # From before the first step to behind the last one.
    stride = (len(trained) - 1) / max(1, len(one.validation) - 1)
    validation = [(1 + stride * index, value) for index, value in enumerate(one.validation)]
    return curve(
        "Objective of a soft prompt's training, and validation, over steps",
        [Series("trained", trained), Series("validation", validation)],
    )


def _by_strategy(report: Report, value: Callable[[CurvePoint], float | None]) -> list[Series]:
    """A line for each strategy that has values, drawn on to the search's end."""
    found: dict[str, list[tuple[float, float]]] = {}
    for point in report.search_curve:
        if (y := value(point)) is not None:
            found.setdefault(point.strategy, []).append((_effort(point), float(y)))
    return [Series(colour(report, name), points, True) for name, points in found.items()]


def _effort(point: CurvePoint) -> float:
    return float(point.tokens_forwarded)


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    """Its class."""
    points: Sequence[Point]
    is_step: bool = False
    """It keeps its height until the next point."""


@dataclass(frozen=True)
class Plane:
    """Where values fall, on linear axes that end at round numbers or at the data's ends."""

    first: float
    last: float
    low: float
    high: float

    @classmethod
    def over(cls, points: Sequence[Point], levels: Sequence[float]) -> Plane:
        """Around points and further heights; at least as high as it is told apart."""
        heights = [*(y for _, y in points), *levels]
        low, high = min(heights), max(heights)
        return cls(min(x for x, _ in points), max(x for x, _ in points), low, high)

    def place(self, point: Point) -> Point:
        """Where a point falls."""
        right = (point[0] - self.first) / ((self.last - self.first) or 1) * (WIDTH - LEFT - RIGHT)
        up = (point[1] - self.low) / ((self.high - self.low) or 1) * (BASE - TOP)
        return LEFT + right, BASE - up


def curve(
    about: str, series: Sequence[Series], *, limit: float | None = None, is_from_zero: bool = False
) -> Markup:
    """Lines over a common plane; `limit` is a level line. Nothing where there is no point."""
    points = [point for one in series for point in one.points]
    if not points:
        return Markup("")
    levels = [0.0] * is_from_zero + ([limit] if limit is not None else [])
    plane = Plane.over(points, levels)
    parts = [*_frame(plane)]
    if limit is not None:
        (left, y), (right, _) = plane.place((plane.first, limit)), plane.place((plane.last, limit))
        parts.append(line("bound", (left, y), (max(right, WIDTH - RIGHT), y)))
    for one in series:
        parts += _drawn(one, plane)
    return picture(about, (WIDTH, BASE + 28), parts)


def round_steps(low: float, high: float, count: int) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _frame(plane: Plane) -> Iterator[Markup]:
    for y in round_steps(plane.low, plane.high, 4):
        _, at = plane.place((plane.first, y))
        yield line("grid", (LEFT, at), (WIDTH - RIGHT, at))
        yield text("tick end", (LEFT - 7, at + 4), f"{y:.4g}")
    steps = round_steps(plane.first, plane.last, 4)
    for x in (one for one in steps if one == round(one)):  # half a step is none
        at, _ = plane.place((x, plane.low))
        yield text("tick end" if at > WIDTH - 40 else "tick", (at, BASE + 20), f"{x:,.0f}")
    yield line("axis", (LEFT, BASE), (WIDTH - RIGHT, BASE))


def _drawn(one: Series, plane: Plane) -> Iterator[Markup]:
    placed = [plane.place(point) for point in one.points]
    path = placed
    if one.is_step:  # and holds what it has until the end
        path = placed[:1]
        for before, after in pairwise(placed):
            path += [(after[0], before[1]), after]
        path += [(plane.place((plane.last, 0.0))[0], y) for _, y in placed[-1:]]
    if len(path) > 1:
        yield polyline(one.name, path)
    if len(placed) <= MAX_DOTS:
        yield from (circle(one.name, point, 3.2) for point in placed)
