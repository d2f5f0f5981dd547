"""Charts of a run for the page: the distribution of its values, its search and its training.

Knows a report; does not know shapes (`pytest_divergence.reports.charts`).
"""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS
from pytest_divergence.core.report import CurvePoint, Report, TrainingSummary
from pytest_divergence.reports import charts, wording
from pytest_divergence.reports.charts import Dot, Series, curve

NUM_COLOURS = 6


def distribution(report: Report) -> Markup:
    """The divergence of controls and cases, with bound and noise floor."""
    calibration = report.calibration
    metric = str(report.settings.get("metric") or BUILT_IN_METRICS[0])
    return charts.distribution(
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
    names = [summary.name for summary in report.strategies]
    return f"s{names.index(strategy) % NUM_COLOURS}" if strategy in names else "s5"


def best_curve(report: Report) -> Markup:
    """The largest divergence found so far by each strategy, over the search's forwarded tokens."""
    bound = report.calibration.bound
    lines = _by_strategy(report, lambda point: point.strategy_best_kl)
    if not lines and report.search_curve:
        lines = [Series("best", [(_effort(p), p.best_kl) for p in report.search_curve], True)]
    return curve(
        f"Largest {wording.scale(report).partition(',')[0]} found so far by each strategy, "
        "against forwarded tokens",
        lines,
        limit=bound.value if bound else None,
        is_from_zero=True,
    )


def hits_curve(report: Report) -> Markup:
    """The number of divergent prompts found so far by each strategy, over forwarded tokens."""
    return curve(
        "Divergent prompts found so far by each strategy, against forwarded tokens",
        _by_strategy(report, lambda point: point.num_hits),
        is_from_zero=True,
    )


def training(summary: TrainingSummary) -> Markup:
    """The objective (minus the loss) over the steps of a soft prompt's training."""
    trained = [(float(step), -loss) for step, loss in enumerate(summary.loss, 1)]
    # Validation runs from before the first step to after the last.
    stride = (len(trained) - 1) / max(1, len(summary.validation) - 1)
    validation = [(1 + stride * index, value) for index, value in enumerate(summary.validation)]
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
