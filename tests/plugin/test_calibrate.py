"""`pytest-divergence calibrate`: what a user sees, and what is not measured a second time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pytest_divergence.cli import main
from pytest_divergence.core import settings as settings_module
from pytest_divergence.core.cases import case_id
from pytest_divergence.core.file_names import PROVENANCE, sidecar_path, suite_path
from pytest_divergence.core.provenance import NoiseFloor, write_provenance
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.plugin import loaded_pairs
from tests.plugin.conftest import KNOT, MODELS, Project
from tests.plugin.made_provenance import provenance_of
from tests.tiny import save_tiny_model

SMALL = PROFILES["smoke"].model_copy(
    update={"num_shipped_controls": 20, "num_written_controls": 2, "continuation_length": 6}
)
Calibrate = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _small_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings_module.PROFILES, "smoke", SMALL)


@pytest.fixture
def calibrate(project: Project, capsys: pytest.CaptureFixture[str]) -> Calibrate:
    """The command's JSON, with what it said on the way under `said`."""

    def run(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        named = {one.split("=")[0] for one in arguments}
        models = [one for one in MODELS if one.split("=")[0] not in named]
        assert main(["calibrate", *models, "--json", *arguments]) == 0
        shown = capsys.readouterr()
        found: dict[str, Any] = json.loads(shown.out)
        return {**found, "said": shown.err}

    return run


def test_the_command_prints_a_table_of_what_the_environment_names(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line comes first."""
    monkeypatch.setenv("PYTEST_DIVERGENCE_MODEL_1", "base")
    monkeypatch.setenv("PYTEST_DIVERGENCE_MODEL_2", "ft")
    monkeypatch.setenv("PYTEST_DIVERGENCE_METRIC", "js")

    assert main(["calibrate", "--divergence-model-2=adapter"]) == 0

    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[:4] == [
        "reference  base",
        "candidate  adapter",
        "float32 on cpu, sdpa attention, profile smoke",
        "metric js (of noise: symmetric), nats per token",
    ]
    headings = ("Noise: ", "Shift: ", "Bound ", "Positive control: ", "Measured in ")
    assert [line.startswith(headings) for line in lines].count(True) == len(headings)
    assert max(map(len, lines)) <= 80
    assert shown.err.startswith("divergence: loading the models\n")


def test_every_part_is_measured_and_once(
    calibrate: Calibrate, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = calibrate()

    assert found["noise_floor"]["num_measurements"] >= 59
    rows = {(one["kind"], one["setting"]): one for one in found["nuisances"]}
    assert set(rows) == {("attention", "eager"), ("dtype", "bfloat16"), ("dtype", "float16")}
    assert all(one["num_measurements"] == 20 and one["reason"] is None for one in rows.values())
    assert rows["attention", "eager"]["max"] < 1e-9 < rows["dtype", "bfloat16"]["max"]
    assert 20 <= found["typical_shift"]["num_controls"] <= 22
    assert found["bound"]["value"] == max(found["bound"]["parts"].values())
    assert len(found["planted_prompts"]) == 8

    with monkeypatch.context() as patch:
        patch.delattr(loaded_pairs, "load_pair")
        again, other_bound = calibrate(), calibrate("--max-kl=0.01")
    assert found.pop("said").startswith("divergence: loading the models")
    assert "loading the models" not in again.pop("said")
    assert (found.pop("is_cached"), again.pop("is_cached")) == (False, True)
    assert found == again

    # the smallest change that is caught is the first with a case over the bound
    assert (other_bound["is_cached"], other_bound["bound"]["value"]) == (True, 0.01)
    over = {one["size"]: sum(v > 0.01 for v in one["values"]) for one in other_bound["planted"]}
    assert over == {one["size"]: one["num_over"] for one in other_bound["planted"]}
    assert other_bound["smallest_caught"] == min(size for size, count in over.items() if count)
    assert over[0.003] == 0 < over[0.3]

    # a search goes on from what the command has measured
    (journal,) = (project.path / ".divergence" / "journal").glob("calibration-*.jsonl")
    before = journal.read_bytes()
    project.run(*MODELS, "--divergence-budget=30000", "--divergence-num-cases=1")
    assert journal.read_bytes() == before
    report = next((project.path / ".divergence" / "reports").glob("2*/report.json"))
    shift = json.loads(report.read_text("utf-8"))["calibration"]["typical_shift"]
    assert shift["max"] == found["typical_shift"]["max"]


@pytest.mark.slow
def test_what_changes_a_number_is_measured_anew(calibrate: Calibrate, project: Project) -> None:
    first = calibrate()
    js = calibrate("--metric=js")
    assert not js["is_cached"]
    assert js["typical_shift"] != first["typical_shift"]
    assert calibrate()["is_cached"]

    save_tiny_model(project.path / "ft", perturb=0.1)  # other weights under the same name
    second = calibrate()
    assert not second["is_cached"]
    assert second["typical_shift"]["mean"] < first["typical_shift"]["mean"]


def test_a_wrong_option_is_one_sentence(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        ((), "--model-1 is missing; set it, PYTEST_DIVERGENCE_MODEL_1, or divergence_model_1 in"),
        (
            (*MODELS, "--metric=jss"),
            "--divergence-metric=jss: must be one of symmetric, forward, reverse, js; did",
        ),
        (("--model-1=base", "--model-2=./nowhere"), "--model-2: no folder './nowhere' here"),
    ):
        assert main(["calibrate", *arguments]) == 1
        shown = capsys.readouterr()
        assert shown.err.startswith(f"error: {message}")
        assert not shown.out
    assert not (project.path / ".divergence").exists()


def test_a_bound_inside_the_noise_is_refused_with_the_numbers(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", *MODELS, "--max-kl=1e-7"]) == 1
    shown = capsys.readouterr()
    assert "Positive control" in shown.out
    assert (
        "error: --divergence-max-kl=1e-07 is within the noise: the reference differs from itself "
    ) in shown.err


def test_a_row_and_an_assertion_inside_the_noise_are_no_pass_and_no_finding(
    project: Project,
) -> None:
    """The noise is that of the search which wrote the suite."""
    suite = suite_path(project.path, "base", "ft")
    shown = suite.relative_to(project.path)
    project.write_suite(str(shown), {"input": KNOT, "max_kl": 1e-7})
    floor = NoiseFloor(value=1e-6, num_measurements=64)
    made = provenance_of(project.path / "base", project.path / "ft", noise_floor=floor)
    write_provenance(sidecar_path(suite, PROVENANCE), made)

    result = project.run(*MODELS, str(shown))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: {shown}:1: case {case_id(KNOT)}: max_kl=1e-07 is within the noise: *"]
    )
    # measured in another dtype, the noise is another one, and not known
    other = project.run(*MODELS, str(shown), "--divergence-dtype=bfloat16")
    other.assert_outcomes(failed=1)
    other.stdout.no_fnmatch_line("*within the noise*")

    project.write(
        "test_knots.py",
        f"def test_it(assert_bounded_kl): assert_bounded_kl({KNOT!r}, max_kl=1e-7)\n",
    )
    result = project.run(*MODELS, "test_knots.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["max_kl=1e-07 is within the noise: the reference differs from itself by up to *"]
    )
