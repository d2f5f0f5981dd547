"""A plugin's metric has a scale of its own: what is compared with its numbers is measured in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_divergence.cli import main
from pytest_divergence.core.naming import suite_path
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.core.suites import sidecar_path
from tests.plugin.conftest import MODELS, Project

SIZES = {"num_shipped_controls": 20, "num_written_controls": 2, "continuation_length": 6}
METRIC = """
class Thousandths:
    unit = "mnats/token"

    def measure(self, reference_logits, candidate_logits):
        reference, candidate = (
            one.log_softmax(-1) for one in (reference_logits, candidate_logits)
        )
        return 500 * ((reference.exp() - candidate.exp()) * (reference - candidate)).sum(-1)

def pytest_divergence_metrics():
    return {"thousandths": Thousandths()}
"""
ASKED = ("--divergence-metric=thousandths", "--divergence-dtype=bfloat16")
SMALL = ("--divergence-budget=20000", "--divergence-num-cases=1")


@pytest.fixture
def scaled(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a metric that counts in thousandths of a nat."""
    monkeypatch.setitem(PROFILES, "smoke", PROFILES["smoke"].model_copy(update=SIZES))
    project.write("conftest.py", METRIC)
    return project


def calibrated(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["calibrate", *MODELS, *ASKED, "--json", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def provenance(project: Project) -> dict[str, Any]:
    path = sidecar_path(suite_path(project.path, "base", "ft"), "provenance.json")
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


@pytest.mark.usefixtures("scaled")
def test_noise_and_bound_are_of_the_metric(capsys: pytest.CaptureFixture[str]) -> None:
    found = calibrated(capsys)

    floor, added = found["noise_floor"], found["noise_floor"]["added"]
    assert (added["metric"], added["unit"]) == ("thousandths", "mnats/token")
    assert added["value"] == pytest.approx(1000 * floor["value"], rel=1e-3)
    assert found["bound"]["parts"]["3 x noise floor"] == 3 * added["value"]
    dtypes = [one["max"] for one in found["nuisances"] if one["setting"] == "float32"]
    assert dtypes[0] > 10 * floor["value"], "nuisances too"


@pytest.mark.usefixtures("scaled")
def test_the_table_names_the_unit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", *MODELS, *ASKED]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "metric thousandths, mnats per token"


def test_a_bound_inside_the_metrics_own_noise_is_refused(
    scaled: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    floor = calibrated(capsys)["noise_floor"]
    bound = 10 * floor["value"]  # ten times the noise, were it in nats

    result = scaled.run(*MODELS, *ASKED, *SMALL, f"--divergence-max-kl={bound:g}")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: --divergence-max-kl=* is within the noise: the reference reads up to "
            f"{floor['added']['value']:.3g} mnats/token against itself, and a bound must be *"
        ]
    )


def test_a_search_and_its_report_speak_of_one_unit(scaled: Project) -> None:
    result = scaled.run(*MODELS, *ASKED, *SMALL)

    result.stdout.fnmatch_lines(
        ["bound: * mnats/token, auto: *", "noise floor: * mnats/token, the largest of *"]
    )
    result.stdout.no_fnmatch_line("* nats/token*")
    made = provenance(scaled)
    assert made["bound"]["parts"]["3 x noise floor"] == 3 * made["noise_floor"]["added"]["value"]
