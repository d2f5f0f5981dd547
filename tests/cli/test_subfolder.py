"""Commands in a subfolder of a project: what they mean by default is what pytest means there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_divergence.core import settings as settings_module
from pytest_divergence.core.file_names import sidecar_path, suite_path
from pytest_divergence.core.provenance import load_provenance
from pytest_divergence.core.settings import PROFILES
from tests.cli.conftest import Command
from tests.core.made_suites import SURE, case, control, write_searched
from tests.plugin.conftest import KNOT, Project

INI = """\
[pytest]
divergence_model_1 = base
divergence_model_2 = ft
divergence_dtype = bfloat16
divergence_budget = 30000
divergence_num_cases = 1
"""
SMALL = PROFILES["smoke"].model_copy(
    update={"num_shipped_controls": 20, "num_written_controls": 2, "continuation_length": 6}
)
SUITE = "release.divergence.jsonl"


@pytest.fixture
def configured(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose ini file names two models, with a folder of tests."""
    monkeypatch.setitem(settings_module.PROFILES, "smoke", SMALL)
    project.pytester.makeini(INI)
    (project.path / "tests").mkdir()
    return project


@pytest.mark.slow
def test_what_a_calibration_and_a_search_left_is_found(
    configured: Project, command: Command
) -> None:
    configured.pytester.makeini(f"{INI}divergence_report_dir = runs\n")

    calibrated = command("calibrate", "--json", folder="tests")
    (journal,) = (configured.path / ".divergence/journal").glob("calibration-*.jsonl")
    before = journal.read_bytes()
    found = command("discover", "--json", folder="tests")
    written = command("report", folder="tests")
    promoted = command("promote", "latest", SUITE, folder="tests")
    same = command("diff", "latest", "latest", folder="tests")
    exported = command("export", "--format=inspect", folder="tests")

    assert found.returncode == 0, found.stderr
    assert journal.read_bytes() == before
    shift = json.loads(found.stdout)["calibration"]["typical_shift"]
    assert shift["max"] == json.loads(calibrated.stdout)["typical_shift"]["max"]
    (line, _) = written.stdout.splitlines()
    assert line.startswith("wrote ../runs/2")
    assert line.endswith("/report.html")
    assert promoted.stdout.startswith(f"wrote 1 case and 0 behaviours to {SUITE}\n")
    assert same.stdout == "no difference between latest and latest\n"
    assert len(exported.stdout.splitlines()) == 1
    assert json.loads(calibrated.stdout)["pair"]["dtype"] == "bfloat16"
    assert not (configured.path / "tests" / ".divergence").exists()


def test_a_behaviour_is_accepted_in_the_suites_of_the_project(
    configured: Project, command: Command
) -> None:
    path = suite_path(configured.path, "base", "ft")
    path.parent.mkdir(parents=True)
    write_searched(path, [case(KNOT, 0.8), control("Hello")], SURE)

    done = command("accept", SURE.id, folder="tests")

    shown = Path("..") / path.relative_to(configured.path)
    assert done.stdout == f"accepted {SURE.id} in {shown}\n"
    assert load_provenance(sidecar_path(path, "provenance.json")).behaviours[0].accepted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("accept", SURE.id),
            "there is no suite in ../.divergence/suites; run a search, or name a suite",
        ),
        (("report",), "latest: no run in ../.divergence/reports yet; name a suite"),
    ],
)
def test_where_nothing_is_the_place_is_named(
    configured: Project, command: Command, words: tuple[str, ...], message: str
) -> None:
    done = command(*words, folder="tests")

    assert (done.returncode, done.stderr) == (1, f"error: {message}\n")
    assert not (configured.path / ".divergence").exists()


def test_a_training_is_of_the_projects_models(configured: Project, command: Command) -> None:
    (configured.path / "tests/few.txt").write_text("Hello\nHi\n", "utf-8")
    small = ("--num-steps=1", "--num-written=1", "--num-generations=1", "--max-new-tokens=2")

    done = command("train", "--train-file=few.txt", "--output-dir=out", *small, folder="tests")

    assert done.returncode == 0, done.stderr
    record = json.loads((configured.path / "tests/out/training.json").read_text("utf-8"))
    assert record["settings"]["dtype"] == "bfloat16"


def test_a_model_whose_path_holds_commas_is_found_from_a_subfolder(
    configured: Project, command: Command
) -> None:
    checkpoint = Path("runs", "lr=1e-4,bs=8", "checkpoint-5")
    (configured.path / checkpoint).parent.mkdir(parents=True)
    (configured.path / "ft").rename(configured.path / checkpoint)
    ini = INI.replace("model_2 = ft", f"model_2 = {checkpoint},dtype=float32")
    configured.pytester.makeini(ini)

    shown = command("show-config", folder="tests")

    assert shown.returncode == 0, shown.stderr
    assert f"{checkpoint},dtype=float32" in shown.stdout
    where = ["ini file        ../tox.ini", "results         ../.divergence"]
    assert shown.stdout.splitlines()[:2] == where


def test_without_an_ini_file_a_folder_is_a_project_of_its_own(
    project: Project, command: Command
) -> None:
    (project.path / "setup.py").touch()  # where pytest sees a root folder; nothing goes there
    (project.path / "tests").mkdir()

    report = command("report", folder="tests")

    assert "no run in .divergence/reports yet;" in report.stderr
