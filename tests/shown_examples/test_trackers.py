"""The tracker examples, each as the conftest.py of a project that searches."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.settings import PROFILES
from tests.plugin.conftest import MODELS, Project, project  # noqa: F401  # a fixture
from tests.plugin.test_search import TINY_SEARCH

TRACKERS = Path(__file__).parents[2] / "examples" / "trackers"


def search_with(project: Project, tracker: str) -> dict[str, Any]:  # noqa: F811
    """The report of a small search in a project that has the tracker's conftest.py."""
    project.write("conftest.py", (TRACKERS / tracker / "conftest.py").read_text("utf-8"))
    # The trackers' own warnings are theirs to mend.
    result = project.run(*MODELS, "--divergence-max-kl=9", "-W", "default")
    result.assert_outcomes(passed=3)
    text = (project.path / ".divergence/reports/latest/report.json").read_text("utf-8")
    report: dict[str, Any] = json.loads(text)
    return report


@pytest.fixture(autouse=True)
def _tiny_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "smoke", PROFILES["smoke"].model_copy(update=TINY_SEARCH))


@pytest.fixture(scope="module")
def event_accumulator() -> Any:
    """TensorBoard's reader, imported before any test of this file, like its writer.

    What a test with `pytester` is the first to import is forgotten after it, and a second copy of
    protobuf's extension module crashes the process.
    """
    pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed")
    return importlib.import_module("tensorboard.backend.event_processing.event_accumulator")


def test_tensorboard_shows_a_search(project: Project, event_accumulator: Any) -> None:  # noqa: F811
    report = search_with(project, "tensorboard")

    run = project.path / ".divergence" / "tensorboard" / report["run"]["id"]
    events = event_accumulator.EventAccumulator(str(run))
    events.Reload()
    curve = [(event.step, event.value) for event in events.Scalars("search/best_kl")]
    points = report["search_curve"]
    assert [step for step, _ in curve] == [point["tokens_forwarded"] for point in points]
    assert [value for _, value in curve] == pytest.approx([one["best_kl"] for one in points])
    (restart,) = report["training"]
    losses = [event.value for event in events.Scalars(f"training/{restart['name']}/loss")]
    assert losses == pytest.approx(restart["loss"])
    (histogram,) = events.Histograms("cases/kl")
    assert histogram.histogram_value.num == len(report["cases"])
    assert events.Scalars("bound")[0].value == 9


def test_mlflow_keeps_a_search(
    project: Project,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (project.path / "runs").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "finetuned")
    report = search_with(project, "mlflow")

    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    (run,) = mlflow.search_runs(experiment_names=["finetuned"], output_format="list")
    assert run.info.run_name == report["run"]["id"]
    assert run.data.params["candidate"] == "ft"
    assert run.data.metrics["cases_passed"] == report["verdict_counts"]["passed"]
    assert run.data.metrics["bound"] == 9
    assert run.data.metrics["best_kl"] == pytest.approx(report["search_curve"][-1]["best_kl"])
    kept = Path(run.info.artifact_uri.removeprefix("file://")) / "report.json"
    assert json.loads(kept.read_text("utf-8")) == report
