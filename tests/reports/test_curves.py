from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from pytest_divergence.core.report import TrainingSummary
from pytest_divergence.reports import plots
from pytest_divergence.reports.plots import Series, round_steps
from tests.reports.made_reports import report


def places_of(line: ET.Element) -> list[tuple[float, ...]]:
    return [tuple(map(float, place.split(","))) for place in line.get("points", "").split()]


def test_a_curve_of_one_point_is_a_dot_and_of_none_is_nothing() -> None:
    assert plots.curve("x", [Series("best", [])]) == ""
    assert "<circle" in plots.curve("x", [Series("best", [(1.0, 2.0)])])
    flat = plots.curve("x", [Series("loss", [(1.0, 2.0), (2.0, 2.0)])])
    assert re.search('points="[0-9. ,]+"', flat)


def test_what_was_found_stays_found_until_the_end() -> None:
    lines = [
        Series("s0", [(0.0, 1.0), (10.0, 3.0)], is_step=True),
        Series("s1", [(20.0, 2.0)], is_step=True),
    ]
    first, second = ET.fromstring(plots.curve("x", lines, is_from_zero=True)).iter("polyline")
    places = places_of(first)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    assert [x for x, _ in places][-1] == plots.WIDTH - plots.RIGHT
    assert len(places) == 4
    assert second.get("class") == "s1"


@pytest.mark.parametrize(
    ("low", "high", "steps"),
    [
        (0.0, 3.7, [0, 1, 2, 3]),
        (-4.0, 0.1, [-4, -2, 0]),
        (0.0, 52_000.0, [0, 20_000, 40_000]),
        (2.0, 2.0, [2]),
    ],
)
def test_axes_have_round_numbers(low: float, high: float, steps: list[float]) -> None:
    assert round_steps(low, high, 4) == steps


def test_each_strategy_keeps_its_colour() -> None:
    shown = report()
    assert [plots.colour(shown, one.name) for one in shown.strategies] == ["s0", "s1"]
    assert plots.colour(shown, "gone") == "s5"


def test_a_report_of_an_earlier_version_shows_one_curve() -> None:
    old = report()
    bare = [
        point.model_copy(update={"strategy_best_kl": None, "num_hits": None})
        for point in old.search_curve
    ]
    older = old.model_copy(update={"search_curve": bare})
    assert 'polyline class="best"' in plots.best_curve(older)
    assert plots.hits_curve(older) == ""


def test_a_trainings_validation_stands_from_its_first_step_to_its_last() -> None:
    training = TrainingSummary(name="free", loss=[-1.0, -2.0, -3.0, -4.0], validation=[1.0, 4.0])
    trained, validation = map(places_of, ET.fromstring(plots.training(training)).iter("polyline"))

    assert trained[0] == validation[0]
    assert trained[-1] == validation[-1]
    assert trained[0] == (plots.LEFT, plots.BASE)
    assert trained[-1] == (plots.WIDTH - plots.RIGHT, plots.TOP)

    at_once = TrainingSummary(name="free", loss=[-9.0], validation=[8.0, 9.1])
    assert plots.training(at_once).count("<circle") == 3


def test_steps_are_counted_in_whole_numbers() -> None:
    training = TrainingSummary(name="free", loss=[-float(step) for step in range(10)])
    shown = ET.fromstring(plots.training(training)).iter("text")

    assert [one.text for one in shown if float(one.get("y", 0)) > plots.BASE + 10] == ["5", "10"]
