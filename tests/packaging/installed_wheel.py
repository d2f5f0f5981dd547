"""The installed wheel, tried out by a user who has nothing of this repository.

`.ci/packaging` copies this file and `tests/tiny.py` elsewhere, and runs it in an environment that
holds the wheel and what it depends on, without any extra.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_divergence
from tests.tiny import save_tiny_model

MODELS = ("--model-1", "base", "--model-2", "ft")
SCRIPTS = Path(sys.executable).parent
VERSION = importlib.metadata.version("pytest-divergence")
TINY_SEARCH = """
from pytest_divergence.core.settings import PROFILES

SIZES = {
    "num_shipped_controls": 4, "num_written_controls": 2, "num_seeds": 4, "num_cases": 2,
    "continuation_length": 4, "search_length": 4, "prompt_length": 6, "num_restarts": 1,
    "num_steps": 2, "batch_size": 2, "max_text_tokens": 200, "num_proposals": 4,
}
PROFILES["smoke"] = PROFILES["smoke"].model_copy(update=SIZES)
"""
"""A conftest.py of a user whose searches take seconds."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with two tiny models in it."""
    save_tiny_model(tmp_path / "base")
    save_tiny_model(tmp_path / "ft", perturb=0.3)
    return tmp_path


def run(folder: Path, name: str, *arguments: str, code: int = 0) -> str:
    """What a command of this environment prints."""
    done = subprocess.run(
        [SCRIPTS / name, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_what_is_tried_out_is_the_wheel() -> None:
    assert Path(pytest_divergence.__file__).is_relative_to(sys.prefix)
    assert pytest_divergence.__version__ == VERSION


def test_pytest_lists_the_plugin(tmp_path: Path) -> None:
    assert f"pytest-divergence-{VERSION}" in run(tmp_path, "pytest", "-VV")


def test_the_command_answers(tmp_path: Path) -> None:
    assert "usage: pytest-divergence" in run(tmp_path, "pytest-divergence", "--help")
    shown = run(tmp_path, "pytest-divergence", "--version")
    assert shown == f"pytest-divergence {VERSION}\n"


def test_nothing_warns_on_import(tmp_path: Path) -> None:
    every_name = "import pytest_divergence as p; [getattr(p, name) for name in p.__all__]"

    assert run(tmp_path, "python", "-W", "error", "-c", every_name) == ""


def test_a_project_is_set_up(project: Path) -> None:
    run(project, "pytest-divergence", "init", *MODELS, "--yes")
    written = (project / ".github/workflows/divergence.yml").read_text("utf-8")
    assert f"pytest-divergence=={VERSION}" in written


def test_a_search_ends_in_a_suite_that_replays_and_a_page(project: Path) -> None:
    (project / "conftest.py").write_text(TINY_SEARCH, "utf-8")
    run(project, "pytest-divergence", "discover", *MODELS, "--profile=smoke")
    page = (project / ".divergence/reports/latest/report.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert "</html>" in page
    report = json.loads((project / ".divergence/reports/latest/report.json").read_text("utf-8"))
    assert report["run"]["status"] == "complete"
    assert report["cases"]

    run(project, "pytest-divergence", "promote", "latest", "release.divergence.jsonl")
    replayed = run(project, "pytest", "release.divergence.jsonl", *MODELS)
    assert " passed" in replayed
