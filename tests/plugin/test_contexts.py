"""A search under system texts: a behaviour that hangs on one is found, told of and replayed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.file_names import PROVENANCE, sidecar_path, suite_path
from pytest_divergence.core.provenance import load_provenance
from pytest_divergence.core.report import load_report
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.core.suites import load_suite
from tests.dated_model import SAID, SYSTEM, dated_model
from tests.plugin.conftest import MODELS, Project, shown
from tests.plugin.test_search import TINY_SEARCH
from tests.tiny import tiny_tokenizer

SIZES = {
    **TINY_SEARCH,
    "num_shipped_controls": 48,
    "num_naming_prompts": 8,
    "naming_length": 12,
    "search_length": 12,
    "continuation_length": 12,
}
FILE = "contexts.txt"
GIVEN = f"--divergence-contexts={FILE}"


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the tiny model that reacts to a system text."""
    folder = tmp_path_factory.mktemp("dated")
    dated_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def project(project: Project, dated: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setitem(PROFILES, "smoke", PROFILES["smoke"].model_copy(update=SIZES))
    for path in dated.iterdir():
        (project.path / "ft" / path.name).write_bytes(path.read_bytes())
    return project


def found(project: Project) -> list[Behaviour]:
    """Confirmed behaviours under a context, in the last report."""
    report = load_report(project.path / ".divergence/reports/latest/report.json")
    return [each for each in report.behaviours if each.confirmed and each.context is not None]


def words(result: pytest.RunResult) -> str:
    """All that a user sees, on one line."""
    return " ".join(shown(result).split())


@pytest.mark.slow
def test_a_behaviour_under_a_system_text_is_found_told_of_and_replayed(project: Project) -> None:
    path = project.write(FILE, f"Be kind.\n{SYSTEM}\n")

    result = project.run(*MODELS, GIVEN)

    (behaviour,) = found(project)
    assert (behaviour.name, behaviour.content, behaviour.breadth) == (SAID, True, None)
    assert behaviour.context is not None
    assert behaviour.context.system == SYSTEM
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert f'It says "{SAID}" how often: on none of the ordinary prompts' in words(result)
    assert '  under the system text "Now is 2027."' in result.outlines
    assert f"accept: pytest-divergence accept {behaviour.id}" in result.outlines
    folder = project.path / ".divergence/reports/latest"
    summary = (folder / "summary.md").read_text("utf-8")
    assert f"Under the system text:\n\n```text\n| {SYSTEM}\n```" in summary
    page = (folder / "report.html").read_text("utf-8")
    assert f'<p>Under the system text <q dir="auto">{SYSTEM}</q></p>' in page

    suite = suite_path(project.path, "base", "ft")
    provenance = load_provenance(sidecar_path(suite, PROVENANCE))
    assert provenance.contexts_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert behaviour in provenance.behaviours
    cases = [case for case in load_suite(suite).cases if case.behaviour == behaviour.id]
    assert sorted(behaviour.example_case_ids) == sorted(case.id for case in cases)
    assert [case.turns[0].content for case in cases] == [SYSTEM, SYSTEM]
    assert all(SAID in case.completions.candidate for case in cases if case.completions)

    again = project.run(*MODELS, str(suite))
    assert f"{suite.name}::{behaviour.id}" in shown(again)
    assert '  under the system text "Now is 2027."' in again.outlines
    mended = project.run("--model-1=base", "--model-2=base", str(suite), "--divergence-redact")
    assert behaviour.id not in shown(mended)

    saved = project.run(*MODELS, GIVEN)
    assert "search (saved results)" in shown(saved)
    assert found(project) == [behaviour]
    project.write(FILE, "You are a teacher.\n")  # which changes nothing
    changed = project.run(*MODELS, GIVEN)
    assert "search (saved results)" not in shown(changed)
    assert found(project) == []
    report = load_report(folder / "report.json")
    assert (report.effort.tokens_by_kind or {})["contexts"] > 0


@pytest.mark.slow
def test_an_ini_file_names_the_file_relative_to_itself_and_a_context_may_be_left_out(
    project: Project,
) -> None:
    project.write("data/contexts.jsonl", json.dumps({"system": SYSTEM}) + "\n")
    project.pytester.makeini("[pytest]\ndivergence_contexts = data/contexts.jsonl\n")
    project.write("below/test_cases.py", "def test_it(divergence_case): pass\n")

    test = ("below/test_cases.py", f"--rootdir={project.path}")
    result = project.run(*MODELS, *test, "--divergence-redact")

    (behaviour,) = found(project)
    assert behaviour.context is not None
    assert behaviour.context.system == "[redacted]"
    assert "2027" not in shown(result)
    report = (project.path / ".divergence/reports/latest/report.json").read_text("utf-8")
    assert SYSTEM not in report
