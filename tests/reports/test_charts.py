from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from pytest_divergence.core.report import TrainingSummary
from pytest_divergence.reports import charts, plots
from pytest_divergence.reports.charts import Series, round_steps
from tests.reports.made_reports import report

AXIS = "KL, nats per token (logarithmic)"


def numbers(shape: ET.Element) -> list[float]:
    return [float(value) for key, value in shape.items() if key in ("x", "x1", "x2", "cx")]


@pytest.mark.parametrize(
    ("controls", "cases", "limits"),
    [
        ([], [], (None, None)),
        ([0.0], [(0.0, False)], (0.31, 0.0)),
        ([0.02, 0.03], [(3.7, True), (0.1, False)], (0.31, 1e-6)),
        ([1e-9, 50.0], [(3.7, True), (0.1, False)], (None, None)),
    ],
)
def test_whatever_the_numbers_the_distribution_stays_in_its_frame(
    controls: list[float],
    cases: list[tuple[float, bool]],
    limits: tuple[float | None, float | None],
) -> None:
    bound, floor = limits
    shown = [charts.Dot(value, is_over, f"case-{value:g}") for value, is_over in cases]
    chart = charts.distribution(controls=controls, cases=shown, bound=bound, noise_floor=floor)
    root = ET.fromstring(chart)
    assert all(0 <= x <= charts.WIDTH for shape in root.iter() for x in numbers(shape))
    dots = list(root.iter("circle"))
    assert len(dots) == len(cases)
    assert sum(shape.get("class") == "dot over" for shape in dots) == sum(o for _, o in cases)


def test_a_larger_divergence_stands_further_right() -> None:
    scale = charts.LogScale.over([1e-6, 0.31, 3.7])
    places = [scale.x(value) for value in (0.0, 1e-6, 0.31, 3.7, 10.0)]
    assert places == sorted(places)
    assert places[0] == places[1] == charts.LEFT
    assert places[-1] == charts.WIDTH - charts.RIGHT
    assert [label for _, label in scale.ticks()][-3:] == ["0.1", "1", "10"]


def test_equal_cases_stand_beside_each_other_until_there_is_no_room() -> None:
    dots = [charts.Dot(1.0, True, f"case-{i}") for i in range(charts.MAX_LEVELS)]
    root = ET.fromstring(charts.distribution(controls=[], cases=dots, bound=0.5, noise_floor=None))
    assert len({circle.get("cy") for circle in root.iter("circle")}) == charts.MAX_LEVELS
    crowded = [charts.Dot(1.0, True, f"case-{i}") for i in range(400)]
    chart = charts.distribution(controls=[], cases=crowded, bound=0.5, noise_floor=None)
    assert float((ET.fromstring(chart).get("viewBox") or "").split()[3]) < 300


def test_a_dot_leads_to_its_case() -> None:
    dot = charts.Dot(3.7, True, "plan-me-0123456789")
    root = ET.fromstring(charts.distribution(controls=[], cases=[dot], bound=1, noise_floor=1e-6))
    (link,) = root.iter("a")
    assert link.get("href") == "#case-plan-me-0123456789"
    assert [title.text for title in root.iter("title")] == ["plan-me-0123456789: KL 3.700"]


def test_a_distant_noise_floor_does_not_squeeze_the_rest() -> None:
    def labels(floor: float) -> list[str]:
        chart = charts.distribution(controls=[0.3], cases=[], bound=1.0, noise_floor=floor)
        return [text.text or "" for text in ET.fromstring(chart).iter("text")]

    assert labels(1e-6) == ["0.1", "1", "◂ noise floor 0.000001", "bound 1.000", AXIS]
    assert labels(0.1) == ["0.1", "1", "noise floor 0.100", "bound 1.000", AXIS]


def test_a_bar_is_as_long_as_its_share() -> None:
    svg = ET.fromstring(charts.bar(1.0, 2.0, "over", limit=0.5))
    _, rect, tick = svg
    assert (rect.get("class"), rect.get("width"), tick.get("x1")) == ("over", "50.0", "25.0")
    _, empty = ET.fromstring(charts.bar(0.0, 0.0, "over"))
    assert empty.get("width") == "0.0"


def test_a_profile_is_as_high_as_its_largest_value() -> None:
    (path,) = ET.fromstring(charts.profile([0.0, 4.0, 1.0]))
    assert path.get("d") == "M1.1 20V0.0h.8V20zM2.1 20V15.0h.8V20z"
    assert charts.profile([])


def places_of(line: ET.Element) -> list[tuple[float, ...]]:
    return [tuple(map(float, place.split(","))) for place in line.get("points", "").split()]


def test_a_curve_of_one_point_is_a_dot_and_of_none_is_nothing() -> None:
    assert charts.curve("x", [Series("best", [])]) == ""
    assert "<circle" in charts.curve("x", [Series("best", [(1.0, 2.0)])])
    flat = charts.curve("x", [Series("loss", [(1.0, 2.0), (2.0, 2.0)])])
    assert re.search('points="[0-9. ,]+"', flat)


def test_what_was_found_stays_found_until_the_end() -> None:
    lines = [
        Series("s0", [(0.0, 1.0), (10.0, 3.0)], is_step=True),
        Series("s1", [(20.0, 2.0)], is_step=True),
    ]
    first, second = ET.fromstring(charts.curve("x", lines, is_from_zero=True)).iter("polyline")
    places = places_of(first)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    assert [x for x, _ in places][-1] == charts.PLANE_WIDTH - charts.PLANE_RIGHT
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
    assert trained[0] == (charts.PLANE_LEFT, charts.PLANE_BASE)
    assert trained[-1] == (charts.PLANE_WIDTH - charts.PLANE_RIGHT, charts.PLANE_TOP)

    at_once = TrainingSummary(name="free", loss=[-9.0], validation=[8.0, 9.1])
    assert plots.training(at_once).count("<circle") == 3


def test_steps_are_counted_in_whole_numbers() -> None:
    training = TrainingSummary(name="free", loss=[-float(step) for step in range(10)])
    shown = ET.fromstring(plots.training(training)).iter("text")

    assert [one.text for one in shown if float(one.get("y", 0)) > charts.PLANE_BASE + 10] == [
        "5",
        "10",
    ]
