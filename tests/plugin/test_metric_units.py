"""A plugin's metric has a scale of its own: what is compared with its numbers is measured in it."""

from __future__ import annotations

import json

import pytest

from pytest_divergence.cli import main
from pytest_divergence.core.cases import case_id
from pytest_divergence.core.file_names import sidecar_path, suite_path
from pytest_divergence.core.provenance import Bound, load_provenance, write_provenance
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.core.suites import read_suite
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, shown

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
SUITE = "kept.divergence.jsonl"
SMALL = ("--divergence-budget=30000", "--divergence-num-cases=1")


@pytest.fixture
def scaled(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a metric that counts in thousandths of a nat."""
    monkeypatch.setitem(PROFILES, "smoke", PROFILES["smoke"].model_copy(update=SIZES))
    project.write("conftest.py", METRIC)
    return project


def test_noise_and_bound_are_of_the_metric(
    scaled: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", *MODELS, *ASKED, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    floor, added = found["noise_floor"], found["noise_floor"]["added"]
    assert (added["metric"], added["unit"]) == ("thousandths", "mnats/token")
    assert added["value"] == pytest.approx(1000 * floor["value"], rel=1e-3)
    assert found["bound"]["parts"]["3 x noise floor"] == 3 * added["value"]
    dtypes = [one["max"] for one in found["nuisances"] if one["setting"] == "float32"]
    assert dtypes[0] > 10 * floor["value"], "nuisances too"

    assert main(["calibrate", *MODELS, *ASKED]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "metric thousandths, mnats per token"

    bound = 10 * floor["value"]  # ten times the noise, were it in nats
    result = scaled.run(*MODELS, *ASKED, *SMALL, f"--divergence-max-kl={bound:g}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: --divergence-max-kl=* is within the noise: the reference differs from itself "
            f"by up to {added['value']:.3g} mnats/token, and a bound must be *"
        ]
    )


# A limit of one metric says nothing about a number of another


@pytest.fixture
def measured(scaled: Project) -> Project:
    """A suite of two cases and three control rows, measured in symmetric KL, with a bound."""
    controls = [{"input": f"Ordinary prompt {number}", "tags": ["control"]} for number in range(3)]
    scaled.write_suite(SUITE, {"input": KNOT}, {"input": POEM}, *controls)
    scaled.run(*MODELS, SUITE, "--divergence-fill").assert_outcomes(passed=2)
    path = sidecar_path(scaled.path / SUITE, "provenance.json")
    made = load_provenance(path)
    write_provenance(path, made.model_copy(update={"bound": Bound(value=9.0, label="auto")}))
    return scaled


def test_a_suite_is_not_judged_in_another_quantity(measured: Project) -> None:
    """Either direction of KL is one with both of them."""

    def refused(asked: str, *arguments: str) -> None:
        result = measured.run(*MODELS, SUITE, *arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert result.errlines[0] == (
            f"ERROR: {SUITE}:1: case {case_id(KNOT)}: its limit is for symmetric (nats/token), "
            f"but {asked} asks for another quantity; leave that out, or measure the suite in it "
            "with --divergence-update"
        )

    refused("--divergence-metric=js", "--divergence-metric=js")
    result = measured.run(*MODELS, SUITE, "--divergence-metric=forward", "-k", "not aggregate")
    result.assert_outcomes(passed=2, deselected=1)
    measured.pytester.makeini("[pytest]\ndivergence_metric = thousandths\n")
    refused("divergence_metric=thousandths")


def test_a_suite_in_js_is_replayed_in_js_and_called_so(measured: Project) -> None:
    again = (*MODELS, SUITE, "--divergence-update", "--divergence-metric=js")
    measured.run(*again, "--divergence-github=on").assert_outcomes(passed=2)
    found = read_suite(measured.path / SUITE)
    assert {row.kl.metric for row in found.suite.rows if row.kl} == {"js"}
    assert found.provenance is not None
    assert found.provenance.bound is None, "the old one was in KL"
    moved = [row.kl.value for row in found.suite.controls if row.kl]
    assert found.provenance.typical_shift is not None
    assert found.provenance.typical_shift.mean == pytest.approx(sum(moved) / len(moved))

    measured.run(*MODELS, SUITE, "-W", "default").assert_outcomes(passed=3, warnings=1)
    result = measured.run(*MODELS, SUITE, "--divergence-metric=forward")
    assert result.errlines[0].startswith(
        f"ERROR: {SUITE}:1: case {case_id(KNOT)}: its limit is for js (nats/token), but"
    )

    rows = [{**row.to_row(), "max_kl": 1e-3} for row in found.suite.rows]
    measured.write_suite(SUITE, *rows)
    over = measured.run(*MODELS, SUITE, "-W", "default", "--divergence-report-dir=out")
    over.stdout.fnmatch_lines(["*JS * nats/token > max_kl 0.001"])
    over.stdout.no_fnmatch_line("*KL 0.*")
    page = (measured.path / "out/latest/report.html").read_text("utf-8")
    assert f"<title>{case_id(KNOT)}: JS " in page


def test_promoting_adds_no_rows_of_another_metric(
    measured: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    measured.write_suite("other.divergence.jsonl", {"input": "Why?"})
    asked = (*MODELS, "other.divergence.jsonl", "--divergence-fill")
    measured.run(*asked, "--divergence-metric=thousandths").assert_outcomes(passed=1)

    assert main(["promote", "other.divergence.jsonl", SUITE, "--add"]) == 1
    assert capsys.readouterr().err == (
        f"error: {SUITE}: is measured in symmetric (nats/token), but other.divergence.jsonl in "
        "thousandths (mnats/token); name another file, or measure one of them in the other's "
        "metric with --divergence-update\n"
    )
    assert main(["diff", SUITE, "other.divergence.jsonl"]) == 1
    assert "metric: symmetric -> thousandths" in capsys.readouterr().out


@pytest.mark.slow
def test_an_assertion_in_another_metric_needs_a_bound_of_its_own(measured: Project) -> None:
    measured.write(
        "test_it.py",
        f"""
import pytest

@pytest.mark.divergence(id="{case_id(KNOT)}")
def test_case(assert_bounded_kl, divergence_case):
    assert_bounded_kl(divergence_case, metric="js")

def test_other(assert_bounded_kl):
    assert_bounded_kl({KNOT!r}, metric="thousandths")
""",
    )
    own = suite_path(measured.path, "base", "ft")
    measured.write(str(own), (measured.path / SUITE).read_text("utf-8"))
    made = sidecar_path(measured.path / SUITE, "provenance.json").read_bytes()

    def said(*arguments: str) -> str:
        result = measured.run(*MODELS, *arguments)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        return shown(result)

    why = "has no bound: {} is for symmetric; give max_kl=..."
    given = "--divergence-max-kl"
    assert why.format("the case's bound") in said(SUITE, "test_it.py::test_case")
    assert why.format(given) in said(f"{given}=9", "test_it.py::test_other")
    sidecar_path(own, "provenance.json").write_bytes(made)
    assert why.format("the search's bound") in said("test_it.py::test_other")
