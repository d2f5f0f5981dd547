"""A plugin's metric has a scale of its own: what is compared with its numbers is measured in it."""

from __future__ import annotations

import json
from typing import Any

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
            "ERROR: --divergence-max-kl=* is within the noise: the reference differs from itself "
            f"by up to {floor['added']['value']:.3g} mnats/token, and a bound must be *"
        ]
    )


def test_a_search_and_its_report_speak_of_one_unit(scaled: Project) -> None:
    result = scaled.run(*MODELS, *ASKED, *SMALL, "-v")

    result.stdout.fnmatch_lines(
        ["bound: * mnats/token, auto: *", "noise floor: * mnats/token, the largest of *"]
    )
    result.stdout.no_fnmatch_line("* nats/token*")
    made = provenance(scaled)
    assert made["bound"]["parts"]["3 x noise floor"] == 3 * made["noise_floor"]["added"]["value"]


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


@pytest.mark.parametrize("metric", ["thousandths", "js"])
@pytest.mark.parametrize("where", ["command line", "ini file"])
def test_a_suite_is_not_judged_in_another_metric(
    measured: Project, where: str, metric: str
) -> None:
    name = "--divergence-metric"
    asked = [f"{name}={metric}"]
    if where == "ini file":
        asked, name = [], "divergence_metric"
        measured.pytester.makeini(f"[pytest]\n{name} = {metric}\n")

    result = measured.run(*MODELS, SUITE, *asked)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0] == (
        f"ERROR: {SUITE}:1: case {case_id(KNOT)}: its limit is for symmetric (nats/token), but "
        f"{name}={metric} asks for another quantity; leave that out, or measure the suite in "
        "it with --divergence-update"
    )


@pytest.mark.parametrize("metric", ["forward", "reverse"])
def test_either_direction_of_kl_is_asked_of_a_suite_in_kl(measured: Project, metric: str) -> None:
    result = measured.run(*MODELS, SUITE, f"--divergence-metric={metric}", "-k", "not aggregate")

    result.assert_outcomes(passed=2, deselected=1)


def test_a_suite_in_js_is_replayed_in_js_and_called_so(measured: Project) -> None:
    again = (*MODELS, SUITE, "--divergence-update", "--divergence-metric=js")
    measured.run(*again, "--divergence-github=on").assert_outcomes(passed=2)
    found = read_suite(measured.path / SUITE)
    assert {row.kl.metric for row in found.suite.rows if row.kl} == {"js"}
    assert found.provenance is not None
    assert found.provenance.bound is None, "the old one was in KL"

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


def test_an_update_in_another_metric_leaves_no_bound_of_the_old_one(measured: Project) -> None:
    update = measured.run(*MODELS, SUITE, "--divergence-metric=thousandths", "--divergence-update")

    update.assert_outcomes(passed=2)
    found = read_suite(measured.path / SUITE)
    assert {row.kl.metric for row in found.suite.rows if row.kl} == {"thousandths"}
    assert found.provenance is not None
    assert found.provenance.bound is None
    assert found.provenance.typical_shift is not None
    assert found.provenance.typical_shift.mean > 1
    measured.run(*MODELS, SUITE, "-W", "default").assert_outcomes(passed=3, warnings=1)


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


@pytest.mark.parametrize(
    ("given", "metric"),
    [
        ("case", "thousandths"),
        ("option", "thousandths"),
        ("search", "thousandths"),
        ("case", "js"),
        ("option", "js"),
    ],
)
def test_an_assertion_in_another_metric_needs_a_bound_of_its_own(
    measured: Project, given: str, metric: str
) -> None:
    prompt = repr(KNOT) if given != "case" else "divergence_case"
    mark = f'@pytest.mark.divergence(id="{case_id(KNOT)}")\n' if given == "case" else ""
    fixture = ", divergence_case" if given == "case" else ""
    measured.write(
        "test_it.py",
        f"import pytest\n{mark}def test_it(assert_bounded_kl{fixture}):\n"
        f"    assert_bounded_kl({prompt}, metric={metric!r})\n",
    )
    if given == "search":
        measured.run(*MODELS, "--divergence-dtype=bfloat16", *SMALL)
    asked = {
        "case": (SUITE,),
        "option": ("--divergence-max-kl=9",),
        "search": ("--divergence-dtype=bfloat16",),
    }

    result = measured.run(*MODELS, *asked[given], "test_it.py::test_it")

    assert "errors" in result.parseoutcomes() or "failed" in result.parseoutcomes()
    whose = {
        "case": "the case's bound",
        "option": "--divergence-max-kl",
        "search": "the search's bound",
    }
    assert (
        f"assert_bounded_kl(metric={metric!r}) has no bound: "
        f"{whose[given]} is for symmetric; give max_kl=..."
    ) in shown(result)
