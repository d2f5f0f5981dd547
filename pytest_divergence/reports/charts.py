"""Charts as inline SVG, styled by the page's classes: no script, no style attribute, no library.

Knows numbers and where they fall; draws no text that a model or a file supplied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pytest_divergence.reports.wording import nats, number_of

WIDTH, LEFT, RIGHT = 520, 30, 30
NUM_BINS = 32
Point = tuple[float, float]


@dataclass(frozen=True)
class LogScale:
    """Nats per token on a logarithmic axis; what is under its start, 0 too, stands at the start."""

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
        """Where `value` falls."""
        share = (math.log10(max(value, 10.0**self.low)) - self.low) / (self.high - self.low)
        return LEFT + min(1.0, share) * (WIDTH - LEFT - RIGHT)

    def ticks(self) -> list[tuple[float, str]]:
        """Position and label of each power of ten, at most about eight labels."""
        step = math.ceil((self.high - self.low) / 8)
        return [
            (self.x(10.0**e), f"{10.0**e:g}".replace("e-0", "e-"))
            for e in range(self.low, self.high + 1, step)
        ]


def distribution(
    *,
    controls: Sequence[float],
    cases: Sequence[tuple[float, bool]],
    bound: float | None,
    noise_floor: float | None,
) -> Markup:
    """Controls as a histogram, cases (value, is over the bound) as dots under it, in nats/token."""
    marks = [mark for mark in (bound, noise_floor) if mark is not None]
    scale = LogScale.over([*controls, *(value for value, _ in cases), *marks])
    top, base, dots = 44, 124, 142
    parts = [_text(x, 176, label, "tick") for x, label in scale.ticks()]
    parts += [_line(x, base, x, 162, "grid") for x, _ in scale.ticks()]
    parts += _histogram([scale.x(value) for value in controls], top, base)
    parts.append(_line(LEFT, base, WIDTH - RIGHT, base, "axis"))
    parts += [
        Markup('<circle class="{}" cx="{:.1f}" cy="{}" r="6"/>').format(
            "dot over" if is_over else "dot within", scale.x(value), dots
        )
        for value, is_over in sorted(cases)
    ]
    if noise_floor is not None:
        parts += _mark(scale.x(noise_floor), 32, f"noise floor {nats(noise_floor)}", "floor")
    if bound is not None:
        parts += _mark(scale.x(bound), 14, f"bound {nats(bound)}", "bound")
    parts.append(_text(WIDTH / 2, 196, "KL, nats per token (logarithmic)", "tick"))
    num_over = sum(is_over for _, is_over in cases)
    about = (
        f"KL of {number_of(len(controls), 'control')} and {number_of(len(cases), 'case')}; "
        f"{num_over} over the bound"
    )
    return _svg(about, 202, parts)


def curve(
    about: str, series: Sequence[tuple[str, Sequence[Point]]], *, limit: float | None = None
) -> Markup:
    """Lines over a common, linear plane: (class, points) each; `limit` is a level line.

    With a limit the plane starts at 0, so that heights compare.
    """
    points = [point for _, line in series for point in line]
    if not points:
        return Markup("")
    levels = [y for _, y in points] + ([0.0, limit] if limit is not None else [])
    low, high = min(levels), max(levels)
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    left, top, base = 64, 12, 132

    def place(point: Point) -> Point:
        right = (point[0] - first) / ((last - first) or 1) * (WIDTH - left - RIGHT)
        up = (point[1] - low) / ((high - low) or 1) * (base - top)
        return left + right, base - up

    parts = [_line(left, base, WIDTH - RIGHT, base, "axis"), _line(left, top, left, base, "axis")]
    parts += [_text(left - 6, top + 6, nats(high), "tick end")]
    parts += [_text(left - 6, base + 4, nats(low), "tick end")] if high > low else []
    parts += [_text(left, base + 22, f"{first:,.0f}", "tick start")]
    parts += [_text(WIDTH - RIGHT, base + 22, f"{last:,.0f}", "tick end")] if last > first else []
    if limit is not None:
        y = place((first, limit))[1]
        parts.append(_line(left, y, WIDTH - RIGHT, y, "bound"))
    parts += [_polyline([place(point) for point in line], name) for name, line in series if line]
    return _svg(about, 162, parts)


def bar(value: float, limit: float | None, top: float) -> Markup:
    """A case's KL as a bar, `top` being the longest, with a tick at its bound."""
    width, full = 84, max(top, limit or 0.0) or 1.0
    length = max(1.0, min(1.0, value / full) * width)
    kind = "over" if limit is not None and value > limit else "within"
    tick = Markup("")
    if limit is not None:
        at = min(1.0, limit / full) * width
        tick = Markup('<line class="bound" x1="{0:.1f}" y1="0" x2="{0:.1f}" y2="12"/>').format(at)
    return Markup(
        '<svg class="bar" viewBox="0 0 {} 12" aria-hidden="true">'
        '<rect class="{}" x="0" y="3" width="{:.1f}" height="6"/>{}</svg>'
    ).format(width, kind, length, tick)


def _histogram(positions: Sequence[float], top: int, base: int) -> list[Markup]:
    step = (WIDTH - LEFT - RIGHT) / NUM_BINS
    tallies = [0] * NUM_BINS
    for position in positions:
        tallies[min(NUM_BINS - 1, int((position - LEFT) / step))] += 1
    most = max(tallies) or 1
    shape = '<rect class="control" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
    heights = [tally / most * (base - top) for tally in tallies]
    return [
        Markup(shape).format(LEFT + i * step + 1, base - height, step - 2, height)
        for i, height in enumerate(heights)
        if height
    ]


def _mark(x: float, label_y: int, label: str, name: str) -> list[Markup]:
    is_right = x > WIDTH / 2
    text = _text(x - 5 if is_right else x + 5, label_y, label, "end" if is_right else "start")
    return [_line(x, label_y - 11, x, 162, name), text]


def _polyline(points: Sequence[Point], name: str) -> Markup:
    if len(points) == 1:
        x, y = points[0]
        return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(name, x, y)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(name, path)


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> Markup:
    shape = '<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    return Markup(shape).format(name, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, name: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(name, x, y, text)


def _svg(about: str, height: int, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, height, about, Markup("").join(parts))
