"""Shapes of SVG as safe markup. Knows how a shape is written; not what it stands for."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

Point = tuple[float, float]


def picture(about: str, size: tuple[float, float], parts: Iterable[Markup]) -> Markup:
    """A drawing with a description for those who cannot see it."""
    return Markup(
        '<svg class="chart" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>'
    ).format(*size, about, Markup("").join(parts))


def line(name: str, start: Point, end: Point) -> Markup:
    """A straight line of class `name`."""
    shape = '<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    return Markup(shape).format(name, *start, *end)


def rect(name: str, x: float, y: float, width: float, height: float) -> Markup:
    """A box of class `name`."""
    shape = '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
    return Markup(shape).format(name, x, y, width, height)


def circle(name: str, centre: Point, radius: float, *, title: str = "") -> Markup:
    """A dot of class `name`; `title` shows where a mouse rests on it."""
    inside = Markup("<title>{}</title>").format(title) if title else Markup("")
    shape = '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:g}">{}</circle>'
    return Markup(shape).format(name, *centre, radius, inside)


def polyline(name: str, points: Iterable[Point]) -> Markup:
    """A line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(name, path)


def text(name: str, at: Point, words: str) -> Markup:
    """Words of class `name`."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(name, *at, words)
