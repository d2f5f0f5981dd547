from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from pytest_divergence.reports import charts


def numbers(shape: ET.Element) -> list[float]:
    return [float(value) for key, value in shape.items() if key in ("x", "x1", "x2", "cx")]


@pytest.mark.parametrize("controls", [[], [0.0], [0.02, 0.03], [1e-9, 50.0]])
@pytest.mark.parametrize("cases", [[], [(0.0, False)], [(3.7, True), (0.1, False)]])
@pytest.mark.parametrize("limits", [(None, None), (0.31, 0.0), (0.31, 1e-6)])
def test_whatever_the_numbers_the_distribution_stays_in_its_frame(
    controls: list[float],
    cases: list[tuple[float, bool]],
    limits: tuple[float | None, float | None],
) -> None:
    bound, floor = limits
    chart = charts.distribution(controls=controls, cases=cases, bound=bound, noise_floor=floor)
    root = ET.fromstring(chart)
    assert all(0 <= x <= charts.WIDTH for shape in root for x in numbers(shape))
    dots = [shape for shape in root if shape.tag == "circle"]
    assert len(dots) == len(cases)
    assert sum(shape.get("class") == "dot over" for shape in dots) == sum(o for _, o in cases)


def test_a_larger_divergence_stands_further_right() -> None:
    scale = charts.LogScale.over([1e-6, 0.31, 3.7])
    places = [scale.x(value) for value in (0.0, 1e-6, 0.31, 3.7, 10.0)]
    assert places == sorted(places)
    assert places[0] == places[1] == charts.LEFT
    assert places[-1] == charts.WIDTH - charts.RIGHT
    assert [label for _, label in scale.ticks()][-3:] == ["0.1", "1", "10"]


def test_a_curve_of_one_point_is_a_dot_and_of_none_is_nothing() -> None:
    assert charts.curve("x", [("best", [])]) == ""
    assert "<circle" in charts.curve("x", [("best", [(1.0, 2.0)])])
    flat = charts.curve("x", [("loss", [(1.0, 2.0), (2.0, 2.0)])])
    assert re.search('points="[0-9. ,]+"', flat)


def test_a_bar_is_as_long_as_its_share() -> None:
    svg = ET.fromstring(charts.bar(1.0, 0.5, 2.0))
    rect, tick = svg
    assert (rect.get("class"), rect.get("width"), tick.get("x1")) == ("over", "42.0", "21.0")
    assert charts.bar(0.0, None, 0.0)
