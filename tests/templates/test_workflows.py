"""The templates' workflows: what GitHub reads, and their commands, run one after the other."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from pytest_divergence import __version__
from pytest_divergence.cli import main
from tests.plugin.conftest import Project
from tests.templates.conftest import TEMPLATES, Copy, change_weight

WORKFLOWS = sorted(TEMPLATES.glob("*/.github/workflows/*.yml"))
GATE = TEMPLATES / "ci_gate/.github/workflows/divergence.yml"
NIGHTLY = "divergence/nightly"


def workflow(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def commands(path: Path) -> dict[str, str]:
    """By name: what a workflow's steps run."""
    (job,) = workflow(path)["jobs"].values()
    return {step["name"]: step["run"] for step in job["steps"] if "run" in step}


def run_step(project: Project, lines: str) -> int:
    """Run a step as a runner's shell does, our own command without a process for each."""
    if not lines.startswith("pytest-divergence "):
        shell = ["bash", "-e", "-c", lines]
        return subprocess.run(shell, cwd=project.path, check=False).returncode
    (line,) = lines.splitlines()
    return main(shlex.split(line)[1:])


def test_each_is_limited_in_time_and_rights() -> None:
    """That GitHub reads each: `tests/test_action.py`."""
    for path in WORKFLOWS:
        (job,) = workflow(path)["jobs"].values()
        keys = {"name", True, "permissions", "jobs"}  # YAML reads `on` as true
        assert set(workflow(path)) == keys
        assert job["timeout-minutes"] > 0
        assert commands(path)["install"] == "pip install 'pytest-divergence[peft]'\n"


def test_the_gates_one_is_what_init_writes_but_for_the_versions(copied: Copy) -> None:
    project = copied("minimal")
    (project.path / "pytest.ini").unlink()
    assert main(["init", "--model-1=owner/base", "--model-2=owner/finetuned", "--yes"]) == 0
    made = project.path / ".github/workflows/divergence.yml"
    text = made.read_text("utf-8").replace(f"=={__version__}", "")
    made.write_text(text, "utf-8")
    both = workflow(made), workflow(GATE)
    for one in both:
        one["jobs"]["replay"]["steps"][1]["with"].pop("python-version")
    assert both[0] == both[1]


@pytest.fixture
def repository(searched: Copy, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The nightly template, committed, with a remote and a `gh` that notes what it was told."""
    project = searched("nightly_discovery")
    remote = project.path.parent / "remote.git"
    project.write(".gitignore", "*\n!.gitignore\n")
    project.write("bin/gh", '#!/bin/sh\necho "$@" >> gh.log\n').chmod(0o755)
    monkeypatch.setenv("PATH", f"{project.path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("GITHUB_SHA", "0123456789")
    begin = f"""\
git init -q -b main .
git config user.name me
git config user.email me@localhost
git add .gitignore
git commit -q -m begin
git init -q --bare {shlex.quote(str(remote))}
git remote add origin {shlex.quote(str(remote))}
"""
    assert run_step(project, begin) == 0
    project.write(".gitignore", "")
    return project


def proposed(project: Project) -> str:
    command = ["git", "-C", "../remote.git", "show", "--stat", "--format=%s", NIGHTLY]
    return subprocess.run(
        command, cwd=project.path, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.slow
def test_what_a_night_finds_is_what_each_pull_request_replays(repository: Project) -> None:
    folder = TEMPLATES / "nightly_discovery/.github/workflows"
    night, replay = commands(folder / "nightly.yml"), commands(folder / "divergence.yml")["replay"]
    assert list(night) == ["install", "search", "keep", "propose"]

    assert run_step(repository, night["search"]) == 0
    *shell, promote = night["keep"].splitlines()
    assert run_step(repository, "\n".join(shell)) == 0
    assert run_step(repository, promote) == 0
    assert run_step(repository, night["propose"]) == 0

    assert (
        (repository.path / "nightly.md")
        .read_text("utf-8")
        .startswith("Candidate `ft` at 0123456789.\n")
    )
    told = (repository.path / "gh.log").read_text("utf-8")
    assert told.startswith(f"pr create --head {NIGHTLY} --title Cases of the nightly search")
    shown = proposed(repository)
    assert shown.startswith("Cases of the nightly search\n")
    for kind in ("divergence.jsonl", "provenance.json", "tokens.jsonl"):
        assert f" tests/nightly.{kind} " in shown
    assert "3 files changed" in shown

    assert run_step(repository, replay) == 0
    change_weight(repository.path / "base", repository.path / "ft", "model.norm.weight", 8.0)
    assert run_step(repository, replay) == pytest.ExitCode.TESTS_FAILED

    (repository.path / "gh.log").unlink()  # a night that finds the same proposes nothing
    assert run_step(repository, night["propose"]) == 0
    assert not (repository.path / "gh.log").exists()


@pytest.mark.slow
def test_a_night_that_keeps_no_case_is_green_and_proposes_nothing(
    repository: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing differs by so much that this project would keep it; what it has kept stays."""
    night = commands(TEMPLATES / "nightly_discovery/.github/workflows/nightly.yml")
    with (repository.path / "conftest.py").open("a") as file:
        file.write("""

def pytest_divergence_modify_cases(cases):
    cases[:] = [case for case in cases if case.kl.value > case.max_kl]
""")
    earlier = repository.write("tests/nightly.divergence.jsonl", '{"input": "Hello"}\n')

    assert run_step(repository, night["search"]) == 0
    assert run_step(repository, night["keep"]) == 0
    assert run_step(repository, night["propose"]) == 0

    said = capfd.readouterr().out
    assert " scored, none of them kept as a case." in " ".join(said.split())
    assert said.endswith("::notice::the search kept no case, so there is nothing to propose\n")
    assert earlier.is_file()
    assert not (repository.path / "gh.log").exists()
