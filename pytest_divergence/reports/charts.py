"""Charts as inline SVG, styled by the page's classes: no style attribute, no library.

Distributions, bars, profiles and curves. Knows numbers and positions; draws no text that a model or
a file supplied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import visible
from pytest_divergence.reports.wording import nats

WIDTH, LEFT, RIGHT = 640, 30, 30
"""Size and margins of a distribution."""
NUM_BINS = 44
MAX_LEVELS = 11
"""Rows of dots; with more, dots overlap."""
FAR = 10.0
"""A noise floor this many times below all else is named at the edge, not drawn to scale."""
PLANE_WIDTH, PLANE_LEFT, PLANE_RIGHT, PLANE_TOP, PLANE_BASE = 520, 52, 16, 12, 172
"""Size and margins of a chart of lines."""
MAX_DOTS = 24
"""A line with more points than this is drawn without dots."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Dot:
    """A case in the distribution."""

    value: float
    """Nats per token."""
    is_over: bool
    case_id: str
    """The dot's name and the target of a click; its form makes it safe."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    """CSS class of the line."""
    points: Sequence[Point]
    is_step: bool = False
    """The line keeps its height until the next point."""


def distribution(
    *,
    controls: Sequence[float],
    cases: Sequence[Dot],
    bound: float | None,
    noise_floor: float | None,
    scale_name: str = "KL, nats per token",
) -> Markup:
    """Controls as a histogram, cases as dots under it."""
    others = [*controls, *(dot.value for dot in cases), *([bound] if bound else [])]
    is_far = noise_floor is not None and noise_floor * FAR < min(
        (value for value in others if value > 0), default=0.0
    )
    scale = LogScale.over(others if is_far or noise_floor is None else [*others, noise_floor])
    top, base = 46, 134
    quantity = scale_name.partition(",")[0]
    swarm, foot = _swarm(cases, scale, base + 8, quantity)
    parts = []
    if bound is not None:
        beyond = scale.x(bound)
        parts.append(rect("beyond", beyond, 24, WIDTH - RIGHT - beyond, foot - 24))
    parts += [line("grid", (x, base), (x, foot)) for x, _ in scale.ticks()]
    parts += [text("tick", (x, foot + 18), label) for x, label in scale.ticks()]
    parts += _histogram([scale.x(value) for value in controls], top, base)
    parts += [line("axis", (LEFT, base), (WIDTH - RIGHT, base)), *swarm]
    if noise_floor is not None:
        label = f"noise floor {nats(noise_floor)}"
        parts += (
            [text("tick start", (LEFT, 36), f"◂ {label}")]
            if is_far
            else _mark(scale.x(noise_floor), 36, foot, label, "floor")
        )
    if bound is not None:
        parts += _mark(scale.x(bound), 16, foot, f"bound {nats(bound)}", "bound")
    parts.append(text("tick", (WIDTH / 2, foot + 40), f"{scale_name} (logarithmic)"))
    num_over = sum(dot.is_over for dot in cases)
    about = (
        f"{quantity} of {number_of(len(controls), 'control')} and "
        f"{number_of(len(cases), 'case')}; "
        f"{num_over} over the bound"
    )
    return picture(about, (WIDTH, foot + 48), parts)


def curve(
    about: str, series: Sequence[Series], *, limit: float | None = None, is_from_zero: bool = False
) -> Markup:
    """Lines on a common plane; `limit` is a level line. Empty if there are no points."""
    points = [point for each in series for point in each.points]
    if not points:
        return Markup("")
    levels = [0.0] * is_from_zero + ([limit] if limit is not None else [])
    plane = Plane.over(points, levels)
    parts = [*_frame(plane)]
    if limit is not None:
        (left, y), (right, _) = plane.place((plane.first, limit)), plane.place((plane.last, limit))
        parts.append(line("bound", (left, y), (max(right, PLANE_WIDTH - PLANE_RIGHT), y)))
    for each in series:
        parts += _drawn(each, plane)
    return picture(about, (PLANE_WIDTH, PLANE_BASE + 28), parts)


def bar(value: float, top: float, name: str, *, limit: float | None = None) -> Markup:
    """A value as a bar that scales with its box, full at `top`; a tick at its limit."""
    full = max(top, limit or 0.0) or 1.0
    length = max(0.6, min(1.0, value / full) * 100) if value > 0 else 0.0
    tick = Markup("")
    if limit is not None:
        at = min(1.0, limit / full) * 100
        tick = line("tick-at", (at, 0), (at, 8))
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        "{}{}{}</svg>"
    ).format(rect("rail", 0, 1.5, 100, 5), rect(name, 0, 1.5, length, 5), tick)


def profile(values: Sequence[float]) -> Markup:
    """The divergence at each position of an answer, as bars beside each other."""
    top = max(values, default=0.0) or 1.0
    bars = (
        f"M{i + 0.1:g} 20V{20 - value / top * 20:.1f}h.8V20z"
        for i, value in enumerate(values)
        if value / top > 0.005
    )
    return Markup(
        '<svg class="profile" viewBox="0 0 {} 20" preserveAspectRatio="none" aria-hidden="true">'
        '<path d="{}"/></svg>'
    ).format(len(values), "".join(bars))


def round_steps(low: float, high: float, count: int) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class LogScale:
    """Nats per token on a logarithmic axis; smaller values, 0 too, are drawn at its start."""

    low: int
    """Exponent of ten at the left end."""
    high: int

    @classmethod
    def over(cls, values: Sequence[float]) -> LogScale:
        """Whole powers of ten around `values`, at least one decade."""
        positive = [max(value, 1e-7) for value in values if value > 0] or [1.0]
        low = math.floor(math.log10(min(positive)))
        return cls(low, max(low + 1, math.ceil(math.log10(max(positive)))))

    def x(self, value: float) -> float:
        """Position of `value`."""
        share = (math.log10(max(value, 10.0**self.low)) - self.low) / (self.high - self.low)
        return LEFT + min(1.0, share) * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> list[tuple[float, str]]:
        """Position and label of each power of ten, at most about eight labels."""
        step = math.ceil((self.high - self.low) / 8)
        return [
            (self.x(10.0**e), f"{10.0**e:g}".replace("e-0", "e-"))
            for e in range(self.low, self.high + 1, step)
        ]


@dataclass(frozen=True)
class Plane:
    """Positions of values on linear axes that span the data."""

    first: float
    last: float
    low: float
    high: float

    @classmethod
    def over(cls, points: Sequence[Point], levels: Sequence[float]) -> Plane:
        """The plane that holds all points and further heights."""
        heights = [*(y for _, y in points), *levels]
        low, high = min(heights), max(heights)
        return cls(min(x for x, _ in points), max(x for x, _ in points), low, high)

    def place(self, point: Point) -> Point:
        """Position of a point."""
        right = (
            (point[0] - self.first)
            / ((self.last - self.first) or 1)
            * (PLANE_WIDTH - PLANE_LEFT - PLANE_RIGHT)
        )
        up = (point[1] - self.low) / ((self.high - self.low) or 1) * (PLANE_BASE - PLANE_TOP)
        return PLANE_LEFT + right, PLANE_BASE - up


def _histogram(positions: Sequence[float], top: int, base: int) -> Iterator[Markup]:
    step = (WIDTH - LEFT - RIGHT) / NUM_BINS
    tallies = [0] * NUM_BINS
    for position in positions:
        tallies[min(NUM_BINS - 1, int((position - LEFT) / step))] += 1
    most = max(tallies) or 1
    for i, tally in enumerate(tallies):
        if tally:
            height = tally / most * (base - top)
            yield rect("control", LEFT + i * step + 0.75, base - height, step - 1.5, height)


def _swarm(
    cases: Sequence[Dot], scale: LogScale, top: float, quantity: str
) -> tuple[list[Markup], float]:
    """The dots, in rows so that equal values don't overlap, and the lower edge of the rows."""
    radius = 6.0 if len(cases) <= 40 else 4.0 if len(cases) <= 120 else 3.0
    ends = [-math.inf] * MAX_LEVELS
    placed: list[tuple[float, int, Dot]] = []
    for dot in sorted(cases, key=lambda dot: (dot.value, dot.case_id)):
        x = min(max(scale.x(dot.value), LEFT + radius), WIDTH - RIGHT - radius)
        free = (i for i, end in enumerate(ends) if end + 2 * radius <= x)
        level = next(free, min(range(MAX_LEVELS), key=lambda i: ends[i]))
        ends[level] = x
        placed.append((x, level, dot))
    levels = max((level for _, level, _ in placed), default=0) + 1
    dots = [
        Markup('<a href="#case-{0}" tabindex="-1">{1}</a>').format(
            dot.case_id,
            circle(
                "dot over" if dot.is_over else "dot within",
                (x, top + radius + level * (2 * radius + 0.5)),
                radius,
                title=f"{dot.case_id}: {quantity} {nats(dot.value)}",
            ),
        )
        for x, level, dot in placed
    ]
    return dots, top + levels * (2 * radius + 0.5) + 6


def _mark(x: float, y: float, foot: float, label: str, name: str) -> list[Markup]:
    is_right = x > WIDTH / 2
    at: Point = (x - 5 if is_right else x + 5, y)
    return [
        line(name, (x, y - 12), (x, foot)),
        text(f"{name}-name {'end' if is_right else 'start'}", at, label),
    ]


def _frame(plane: Plane) -> Iterator[Markup]:
    for y in round_steps(plane.low, plane.high, 4):
        _, at = plane.place((plane.first, y))
        yield line("grid", (PLANE_LEFT, at), (PLANE_WIDTH - PLANE_RIGHT, at))
        yield text("tick end", (PLANE_LEFT - 7, at + 4), f"{y:.4g}")
    steps = round_steps(plane.first, plane.last, 4)
    for x in (step for step in steps if step == round(step)):  # there are no half steps
        at, _ = plane.place((x, plane.low))
        yield text(
            "tick end" if at > PLANE_WIDTH - 40 else "tick", (at, PLANE_BASE + 20), f"{x:,.0f}"
        )
    yield line("axis", (PLANE_LEFT, PLANE_BASE), (PLANE_WIDTH - PLANE_RIGHT, PLANE_BASE))


def _drawn(series: Series, plane: Plane) -> Iterator[Markup]:
    placed = [plane.place(point) for point in series.points]
    path = placed
    if series.is_step:  # the last value lasts until the end
        path = placed[:1]
        for before, after in pairwise(placed):
            path += [(after[0], before[1]), after]
        path += [(plane.place((plane.last, 0.0))[0], y) for _, y in placed[-1:]]
    if len(path) > 1:
        yield polyline(series.name, path)
    if len(placed) <= MAX_DOTS:
        yield from (circle(series.name, point, 3.2) for point in placed)


def picture(about: str, size: tuple[float, float], parts: Iterable[Markup]) -> Markup:
    """A drawing with a description for screen readers."""
    return Markup(
        '<svg class="chart" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>'
    ).format(*size, visible(about), Markup("").join(parts))


def line(name: str, start: Point, end: Point) -> Markup:
    """A straight line of class `name`."""
    shape = '<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    return Markup(shape).format(name, *start, *end)


def rect(name: str, x: float, y: float, width: float, height: float) -> Markup:
    """A box of class `name`."""
    shape = '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
    return Markup(shape).format(name, x, y, width, height)


def circle(name: str, centre: Point, radius: float, *, title: str = "") -> Markup:
    """A dot of class `name`; `title` appears under the mouse pointer."""
    inside = Markup("<title>{}</title>").format(visible(title)) if title else Markup("")
    shape = '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:g}">{}</circle>'
    return Markup(shape).format(name, *centre, radius, inside)


def polyline(name: str, points: Iterable[Point]) -> Markup:
    """A line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(name, path)


def text(name: str, at: Point, words: str) -> Markup:
    """Words of class `name`."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(
        name, *at, visible(words)
    )
