"""Every search, and every replay that writes a report, becomes a run in MLflow.

Copy it into the root folder of your project; it needs `pip install mlflow` (mlflow-skinny is
enough). The usual variables set where runs go and under which name:

    MLFLOW_TRACKING_URI=… MLFLOW_EXPERIMENT_NAME=finetuned pytest --model-1 … --model-2 …

Each run includes the report as `report.json`, with prompts and answers in it: `--divergence-redact`
leaves them out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_divergence.core.report import Report


@pytest.hookimpl(optionalhook=True)
def pytest_divergence_report(report: Report) -> None:
    """Log the pair as parameters, the numbers as metrics and the whole report as an artifact."""
    import mlflow

    with mlflow.start_run(run_name=report.run.id):
        mlflow.log_params(report.pair.model_dump())
        mlflow.set_tags({"mode": report.run.mode, "status": report.run.status})
        mlflow.log_metrics(numbers_of(report))
        for point in report.search_curve:
            mlflow.log_metric("best_kl", point.best_kl, step=point.tokens_forwarded)
        mlflow.log_dict(report.model_dump(mode="json"), "report.json")


def numbers_of(report: Report) -> dict[str, float]:
    """Return the numbers to compare runs by, without those that were not measured."""
    values = [case.kl.value for case in report.cases if case.kl is not None]
    shift, bound = report.calibration.typical_shift, report.calibration.bound
    numbers = {
        **{f"cases_{verdict}": count for verdict, count in report.verdict_counts.items()},
        "behaviours_confirmed": sum(behaviour.confirmed for behaviour in report.behaviours),
        "max_kl": max(values, default=None),
        "bound": bound.value if bound else None,
        "typical_shift": shift.mean if shift else None,
        "tokens_forwarded": report.effort.tokens_forwarded,
        "seconds": report.effort.seconds,
    }
    return {name: float(value) for name, value in numbers.items() if value is not None}
