"""The whole job on real tiny models: search, failing cases, what is left behind, fixtures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.file_names import suite_path
from pytest_divergence.core.promotion import promote
from pytest_divergence.core.settings import PROFILES
from tests.plugin.conftest import KNOT, MODELS, Project, shown

PAIR = ("--model-1=base", "--model-2=adapter")
TINY_SEARCH = {
    "num_shipped_controls": 4,
    "num_written_controls": 2,
    "num_seeds": 4,
    "num_cases": 2,
    "continuation_length": 4,
    "search_length": 4,
    "prompt_length": 6,
    "num_restarts": 1,
    "num_steps": 2,
    "batch_size": 2,
    "max_text_tokens": 200,
    "num_proposals": 4,
}


@pytest.fixture(autouse=True)
def _tiny_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smoke profile that takes seconds."""
    monkeypatch.setitem(PROFILES, "smoke", PROFILES["smoke"].model_copy(update=TINY_SEARCH))


FIXTURES = """
def test_pair(model_pair):
    assert model_pair.reference_identity.spec == "base"

def test_prompts(soft_prompts, hard_prompts):
    assert [one.num_virtual_tokens for one in soft_prompts] == [8]
    assert len(hard_prompts) == 2

def test_bounded(divergence_case, assert_bounded_kl):
    score = assert_bounded_kl(divergence_case, max_kl=99.0)
    assert score.measurement.value > 0
"""


def test_from_two_models_to_failing_tests_and_back(project: Project) -> None:
    project.write("test_fixtures.py", FIXTURES)
    first = project.run(*PAIR, "--divergence-max-kl=0.001")
    assert first.ret == pytest.ExitCode.TESTS_FAILED
    first.assert_outcomes(passed=1 + 2 + 2, failed=2)
    assert "Traceback" not in shown(first)
    assert not first.errlines
    suite = suite_path(project.path, "base", "adapter")
    first.stdout.fnmatch_lines(
        [
            "KL * nats/token > max_kl 0.001 (noise floor *)",
            "The models behave differently. 2 of 2 prompts found by the search show more",
            "divergence than the bound, 0.001 nats/token.",
            "2 failed = 2 cases. Exit code 1 means that differences were found, not that the",
            "tool broke.",
            "report: .divergence/reports/*/report.html",
            "keep:   pytest-divergence promote latest tests/release.divergence.jsonl",
        ]
    )
    latest = project.path / ".divergence/reports/latest"
    assert {"report.html", "report.json", "summary.md"} <= {one.name for one in latest.iterdir()}
    report = json.loads((latest / "report.json").read_text("utf-8"))
    assert report["run"]["status"] == "complete"
    rows = suite.read_bytes()

    again = project.run(*PAIR, "--divergence-max-kl=0.001", "--divergence-max-shift=1e-9")
    again.assert_outcomes(passed=1 + 2 + 2, failed=2 + 1)
    again.stdout.fnmatch_lines("3 failed = 2 cases + 1 typical shift. Exit code 1 means *")
    assert suite.read_bytes() == rows
    effort = next(line for line in first.outlines if line.startswith("search: "))
    was = " ".join(shown(again).split())
    assert f"search (saved results): {effort.removeprefix('search: ')}" in was

    one = project.run(*PAIR, f"{suite.relative_to(project.path)}::{report['cases'][0]['id']}")
    one.assert_outcomes(failed=1)


def test_a_search_that_keeps_no_case_passes_and_says_so(project: Project) -> None:
    """A project that keeps only what is over the bound, on a night when nothing is."""
    project.write(
        "conftest.py",
        """
def pytest_divergence_modify_cases(cases):
    cases[:] = [case for case in cases if case.kl.value > case.max_kl]
""",
    )
    project.write("test_cases.py", "def test_it(divergence_case): assert divergence_case\n")
    suite = suite_path(project.path, "base", "ft").relative_to(project.path)

    result = project.run(*MODELS, "--divergence-max-kl=50")

    assert result.ret == pytest.ExitCode.OK, shown(result)
    result.assert_outcomes(passed=1, skipped=1)
    said = " ".join(result.outlines)
    assert "No prompt over the bound, 50.000 nats/token: 15 prompts scored, none of" in said
    assert " kept as a case.  search: " in said
    assert "keep: " not in said

    replayed = project.run(*MODELS, str(suite))
    assert replayed.ret == pytest.ExitCode.USAGE_ERROR
    assert replayed.errlines[0] == (
        f"ERROR: {suite}: has no cases; an empty suite would pass without a test"
    )
    with pytest.raises(
        SettingsError, match=r"^run [0-9-]+ kept no cases, so there is nothing to pro"
    ):
        promote(Path(".divergence/reports/latest"), project.path / "release.divergence.jsonl")


def test_a_search_of_one_model_twice_passes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in CI, with the models of the ini file, where a session says that it searches."""
    project.pytester.makeini("[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = base\n")
    project.write("test_unit.py", "def test_addition(): assert 1 + 1 == 2\n")
    monkeypatch.setenv("CI", "true")

    project.run("--divergence-mode=search").assert_outcomes(passed=1 + 3)


def test_what_cannot_be_searched_is_one_sentence(project: Project) -> None:
    project.write("test_unit.py", "def test_addition(): assert 1 + 1 == 2\n")
    project.write("seeds.txt", "\n\n")
    for arguments, message in (
        (("--divergence-mode=search",), "a search needs two models; give --model-1 and --model-2"),
        (
            (*PAIR, "--divergence-seeds=seeds.txt"),
            "seeds.txt has no prompts; write one per line, or JSON Lines",
        ),
        (
            (*PAIR, "--divergence-report-dir=seeds.txt"),
            "cannot make the folder seeds.txt: File exists",
        ),
    ):
        result = project.run(*arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert result.errlines == [f"ERROR: {message}", ""]


# A user's own assertions need no search


def test_a_prompt_within_its_bound_passes_and_one_over_it_fails(project: Project) -> None:
    project.write(
        "test_kl.py",
        f"""
import pytest

def test_wide(assert_bounded_kl):
    assert assert_bounded_kl({KNOT!r}, max_kl=9.0).measurement.metric == "symmetric"

@pytest.mark.divergence(max_kl=0.001)
def test_narrow(assert_bounded_kl):
    assert_bounded_kl([{{"role": "user", "content": {KNOT!r}}}], metric="js")

def test_unbounded(assert_bounded_kl):
    assert_bounded_kl({KNOT!r})

def test_empty(assert_bounded_kl):
    assert_bounded_kl("", max_kl=1.0)
""",
    )
    result = project.run(*MODELS, "test_kl.py")
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        [
            "JS 0.* nats/token > max_kl 0.001",
            "  js, 1 continuation of each model, *",
            "  intended? raise this case's max_kl in test_kl.py",
            "  rerun: pytest test_kl.py::test_narrow --model-1 base --model-2 ft",
            "assert_bounded_kl has no bound; give max_kl=..., or --divergence-max-kl",
            "*the prompt is empty; a case needs text for the models to answer",
        ]
    )


def test_without_models_the_fixture_says_what_to_give(project: Project) -> None:
    project.write("test_kl.py", "def test_pair(model_pair): pass\n")
    result = project.run("test_kl.py")
    result.assert_outcomes(errors=1)
    assert "model_pair needs two models; give --model-1 and --model-2" in result.outlines


def test_nothing_is_written_beside_a_model_that_lies_elsewhere(
    project: Project, tiny_models: Path
) -> None:
    elsewhere = sorted(tiny_models.rglob("*"))
    models = [f"--model-{side}" for side in (1, 2)]

    # Behind a space, pytest takes the folder for a test path when it looks for its root.
    result = project.run(
        models[0], str(tiny_models / "base"), models[1], str(tiny_models / "adapter")
    )

    assert "collected 3 items" in shown(result)
    assert len(list(project.path.glob(".divergence/suites/*.divergence.jsonl"))) == 1
    assert sorted(tiny_models.rglob("*")) == elsewhere
