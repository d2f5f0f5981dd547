"""A stranger's suite, ini file and names through a whole session: nothing of them is live."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pytest_divergence.core.cases import Case
from pytest_divergence.plugin.options import BY_FIELD
from tests.hostile import ESCAPES, HOSTILE, faults_in, faults_in_markdown, filled, hidden_in
from tests.plugin.conftest import MODELS, Project, shown
from tests.plugin.made_provenance import provenance_of

SUITE = "regress.divergence.jsonl"
ASKED = HOSTILE[:300]
"""Short enough for the context of the tiny models."""


@pytest.fixture
def stranger(project: Project) -> Project:
    """One case over its bound, and one within it."""
    plain = ("kl", "origin", "template_arguments")
    unmeasured: dict[str, Any] = {"tags": (), **dict.fromkeys(plain)}
    rows = [
        filled(Case, input=f"over {ASKED}", max_kl=1e-6, **unmeasured),
        filled(Case, input=f"within {ASKED}", max_kl=9.0, **unmeasured),
    ]
    project.write_suite(SUITE, *(row.to_row() for row in rows))
    return project


def test_a_replay_says_and_writes_nothing_live(
    stranger: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = provenance_of(stranger.path / "ft", stranger.path / "base")
    model = made.reference.model_copy(update={"spec": HOSTILE})
    made = made.model_copy(update={"reference": model, "settings": {HOSTILE: HOSTILE}})
    stranger.write("regress.provenance.json", made.model_dump_json())
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(stranger.path / "step.md"))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(stranger.path))
    words = ("-vv", "-rA", "--showlocals", "-l", "-W", "default")

    result = stranger.run(
        *MODELS, SUITE, "--junitxml=junit.xml", "--divergence-report-dir=out", *words
    )

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    annotations = [line for line in result.outlines if line.startswith("::error file=regress")]
    assert len(annotations) == 1
    assert faults_in(shown(result), commands=annotations) == []
    assert faults_in_markdown((stranger.path / "step.md").read_text("utf-8")) == []
    (folder,) = (one for one in (stranger.path / "out").iterdir() if not one.is_symlink())
    assert faults_in_markdown((folder / "summary.md").read_text("utf-8")) == []
    assert hidden_in((folder / "report.html").read_text("utf-8").replace("\t", "")) == set()
    assert hidden_in((folder / "report.json").read_text("utf-8")) == set()
    junit = (stranger.path / "junit.xml").read_text("utf-8")
    ElementTree.fromstring(junit)
    assert hidden_in(junit) == set()


@pytest.mark.parametrize("field", ["model_1", "metric", "max_kl", "system_prompt", "seeds"])
def test_a_strangers_ini_file(project: Project, field: str) -> None:
    """Whatever a setting is made of, the session says what is wrong with it, and no more."""
    value = f"::error::x {ESCAPES} ##[error]x %z".replace("\x00", "").replace("\x85", "")
    project.write("pytest.ini", f"[pytest]\n{BY_FIELD[field].ini} = {value}\n")
    project.write_suite(SUITE, {"input": "Hello", "max_kl": 9.0})
    models = [] if field in ("model_1", "model_2") else MODELS

    result = project.run(*models, SUITE)

    assert faults_in(shown(result)) == []


@pytest.mark.timeout(120)
def test_a_search_writes_no_journal_through_a_link(project: Project) -> None:
    """The name of a journal follows from the two models, so a checkout may hold it."""
    assert project.run(*MODELS, "--divergence-profile=smoke", "--divergence-mode=search").ret < 2
    (journal,) = (
        one for one in Path(".divergence/journal").glob("*.jsonl") if "calibration" not in one.name
    )
    precious = project.write("precious", "precious\n")

    for what in ("a symbolic link", "a FIFO"):
        journal.unlink()
        journal.symlink_to(precious) if what == "a symbolic link" else os.mkfifo(journal)
        result = project.run(*MODELS, "--divergence-profile=smoke")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert f"{journal}: it is {what}, not a regular file" in shown(result)
    assert precious.read_text() == "precious\n"
