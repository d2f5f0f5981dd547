"""`pytest-divergence calibrate`: what a user sees, and what is not measured a second time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pytest_divergence.cli import main
from pytest_divergence.core import settings as settings_module
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.plugin import loaded_pairs
from tests.plugin.conftest import KNOT, MODELS, Project
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


def test_the_command_prints_a_table(project: Project) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest_divergence.cli", "calibrate", *MODELS],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=project.path,
    )

    lines = run.stdout.splitlines()
    assert lines[:3] == [
        "reference  base",
        "candidate  ft",
        "float32 on cpu, sdpa attention, profile smoke",
    ]
    headings = ("Noise: ", "Shift: ", "Bound ", "Positive control: ", "Measured in ")
    assert [line.startswith(headings) for line in lines].count(True) == len(headings)
    assert max(map(len, lines)) <= 80
    assert run.stderr.startswith("divergence: loading the models\n")


def test_every_part_is_measured(calibrate: Calibrate) -> None:
    found = calibrate()

    assert found["noise_floor"]["num_measurements"] >= 59
    rows = {(one["kind"], one["setting"]): one for one in found["nuisances"]}
    assert set(rows) == {("attention", "eager"), ("dtype", "bfloat16"), ("dtype", "float16")}
    assert all(one["num_measurements"] == 20 and one["reason"] is None for one in rows.values())
    assert rows["attention", "eager"]["max"] < 1e-9 < rows["dtype", "bfloat16"]["max"]
    assert 20 <= found["typical_shift"]["num_controls"] <= 22
    assert found["bound"]["value"] == max(found["bound"]["parts"].values())
    assert len(found["planted_prompts"]) == 8


def test_the_smallest_change_caught_is_the_first_with_a_case_over_the_bound(
    calibrate: Calibrate,
) -> None:
    found = calibrate("--max-kl", "0.01")
    bound = found["bound"]["value"]

    over = {one["size"]: sum(v > bound for v in one["values"]) for one in found["planted"]}

    assert bound == 0.01
    assert over == {one["size"]: one["num_over"] for one in found["planted"]}
    assert found["smallest_caught"] == min(size for size, count in over.items() if count)
    assert over[0.003] == 0 < over[0.3]


def test_a_second_call_measures_nothing_and_loads_no_model(
    calibrate: Calibrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = calibrate()
    monkeypatch.delattr(loaded_pairs, "load_pair")

    second = calibrate()
    other_bound = calibrate("--max-kl=0.5")

    assert "loading the models" not in second.pop("said")
    assert first.pop("said").startswith("divergence: loading the models")
    assert (first.pop("is_cached"), second.pop("is_cached")) == (False, True)
    assert first == second
    assert other_bound["is_cached"]


def test_a_search_goes_on_from_what_the_command_has_measured(
    calibrate: Calibrate, project: Project
) -> None:
    found = calibrate()
    (journal,) = (project.path / ".divergence" / "journal").glob("calibration-*.jsonl")
    before = journal.read_bytes()

    project.run(*MODELS, "--divergence-budget=30000", "--divergence-num-cases=1")

    assert journal.read_bytes() == before
    report = next((project.path / ".divergence" / "reports").glob("2*/report.json"))
    shift = json.loads(report.read_text("utf-8"))["calibration"]["typical_shift"]
    assert shift["max"] == found["typical_shift"]["max"]


@pytest.mark.parametrize(
    "changes",
    [
        ("--model-2=adapter",),
        ("--chat-template=none",),
        ("--dtype=bfloat16",),
        ("--metric=js",),
        ("--seed=1",),
        ("--system-prompt=Be brief.",),
    ],
)
def test_what_changes_a_number_is_measured_anew(
    calibrate: Calibrate, changes: tuple[str, ...]
) -> None:
    first = calibrate()
    other = calibrate(*changes)

    assert not other["is_cached"]
    assert other["typical_shift"] != first["typical_shift"]
    assert calibrate()["is_cached"]


def test_other_weights_under_the_same_name_are_measured_anew(
    calibrate: Calibrate, project: Project
) -> None:
    first = calibrate()
    save_tiny_model(project.path / "ft", perturb=0.1)
    second = calibrate()

    assert not second["is_cached"]
    assert second["typical_shift"]["mean"] < first["typical_shift"]["mean"]


def test_the_environment_names_what_the_command_line_does_not(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DIVERGENCE_MODEL_1", "base")
    monkeypatch.setenv("PYTEST_DIVERGENCE_MODEL_2", "ft")
    monkeypatch.setenv("PYTEST_DIVERGENCE_METRIC", "js")

    assert main(["calibrate", "--json", "--divergence-model-2=adapter"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["pair"]["reference"], found["pair"]["candidate"]) == ("base", "adapter")
    assert found["metric"] == "js"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--model-1 is missing; set it, PYTEST_DIVERGENCE_MODEL_1, or divergence_model_1 in"),
        (("--model-1=base",), "--model-2 is missing; set it, PYTEST_DIVERGENCE_MODEL_2, or"),
        ((*MODELS, "--dtype=int4"), "--divergence-dtype=int4: must be one of auto, float32, bfl"),
        (
            (*MODELS, "--metric=jss"),
            "--divergence-metric=jss: must be one of symmetric, forward, reverse, js; did",
        ),
        (("--model-1=base", "--model-2=./nowhere"), "--model-2: no folder './nowhere' here"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    project: Project, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert main(["calibrate", *arguments]) == 1

    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {message}")
    assert not shown.out
    assert not (project.path / ".divergence").exists()


def test_a_bound_inside_the_noise_is_refused_below_the_table(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", *MODELS, "--max-kl=1e-6"]) == 1

    shown = capsys.readouterr()
    assert "Positive control" in shown.out
    assert (
        "error: --divergence-max-kl=1e-06 is within the noise: the reference differs from itself "
        in shown.err
    )


def test_a_session_with_a_bound_inside_the_noise_ends_with_the_numbers(
    calibrate: Calibrate, project: Project
) -> None:
    calibrate()
    result = project.run(*MODELS, "--divergence-max-kl=1e-7")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: --divergence-max-kl=1e-07 is within the noise: the reference differs from "
            "itself by up to * nats/token, and a bound must be at least 3 x that, *; raise max_kl *"
        ]
    )


def test_a_suite_row_inside_the_noise_is_refused_at_its_line(project: Project) -> None:
    project.run(*MODELS, "--divergence-budget=30000", "--divergence-num-cases=1")
    (suite,) = (project.path / ".divergence" / "suites").glob("*.divergence.jsonl")
    rows = [json.loads(line) for line in suite.read_text("utf-8").splitlines()]
    number, row = next((n, row) for n, row in enumerate(rows, 1) if "control" not in row["tags"])
    row["max_kl"] = 1e-7
    suite.write_text("".join(json.dumps(one) + "\n" for one in rows), "utf-8")
    shown = suite.relative_to(project.path)

    result = project.run(*MODELS, str(shown))

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: {shown}:{number}: case {row['id']}: max_kl=1e-07 is within the noise: *"]
    )
    # measured in another dtype, the noise is another one, and not known
    other = project.run(*MODELS, str(shown), "--divergence-dtype=bfloat16")
    other.stdout.no_fnmatch_line("*within the noise*")
    assert other.ret == pytest.ExitCode.TESTS_FAILED


def test_an_assertion_inside_the_noise_is_no_pass_and_no_finding(project: Project) -> None:
    project.run(*MODELS, "--divergence-budget=30000", "--divergence-num-cases=1")
    project.write(
        "test_knots.py",
        f"def test_it(assert_bounded_kl): assert_bounded_kl({KNOT!r}, max_kl=1e-7)\n",
    )

    result = project.run("--model-1=base", "--model-2=ft", "test_knots.py")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["max_kl=1e-07 is within the noise: the reference differs from itself by up to *"]
    )
