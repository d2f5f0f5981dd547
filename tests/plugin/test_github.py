"""On a runner of GitHub: annotations at the end of the log, and a part of the step's summary."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_divergence.core.cases import case_id
from pytest_divergence.reports.github import MAX_SUMMARY_BYTES
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, shown
from tests.plugin.test_suites import KL, SUITE, write_matching_provenance

HOSTILE = "::error::pwned\n::add-mask::x ##[error]y\n\x1b[31m```\n# heading"


@pytest.fixture
def runner(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project in a job; its suite has one case within its bound and one over it."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.path))
    project.write_suite(SUITE, {"input": POEM, "max_kl": 9.0}, {"input": KNOT, "max_kl": 0.001})
    return project


def commands(result: pytest.RunResult) -> list[str]:
    """Lines that the runner obeys: it trims blanks."""
    return [line for line in result.outlines if line.lstrip().startswith("::") or "##[" in line]


ANNOTATION = (
    f"::error file={SUITE},line=2,title={case_id(KNOT)}::KL NUMBER nats/token > max_kl 0.001"
)


def without_numbers(lines: list[str]) -> list[str]:
    """Measured values have three places behind the point, and another one each time."""
    return [re.sub(r"\b\d\.\d{3}(?! *$)(?!\|`)(?=[ |])", "NUMBER", line, count=1) for line in lines]


def test_a_failing_case_is_annotated_on_its_line_of_the_suite(runner: Project) -> None:
    result = runner.run(*MODELS, SUITE)
    (annotation,) = commands(result)
    assert without_numbers([annotation]) == [ANNOTATION]
    progress = next(line for line in result.outlines if line.startswith(f"{SUITE} "))
    assert progress.split()[1] == ".F", "no line of progress is torn"
    assert result.outlines.index(annotation) > result.outlines.index(progress)
    summary = (runner.path / "summary.md").read_text("utf-8").splitlines()[:8]
    assert without_numbers(summary) == [
        "# pytest-divergence",
        "",
        "**1 of 2 tests failed.**",
        "",
        "|Verdict|KL, nats/token|Bound|Test|",
        "|---|--:|--:|---|",
        f"|failed|NUMBER|0.001|`{case_id(KNOT)}`|",
        f"|passed|NUMBER|9.000|`{case_id(POEM)}`|",
    ]


def test_a_case_that_could_not_be_measured_is_annotated_too(runner: Project) -> None:
    runner.write_suite(SUITE, {"input": KNOT, "max_kl": 0.2, "kl": KL})
    write_matching_provenance(runner)
    result = runner.run(*MODELS, "--divergence-metric=forward", SUITE)
    (line,) = commands(result)
    assert line.startswith(f"::error file={SUITE},line=1,title={case_id(KNOT)}::case ")
    assert "|error|–|0.200|" in (runner.path / "summary.md").read_text("utf-8")


def test_text_of_models_commands_nothing(runner: Project) -> None:
    row = {
        "input": HOSTILE,
        "max_kl": 0.0001,
        "completions": {"reference": HOSTILE, "candidate": HOSTILE},
    }
    runner.write_suite(SUITE, row)
    result = runner.run(*MODELS, SUITE, "-vv", "-rA", "--showlocals")
    assert len(commands(result)) == 1
    assert commands(result)[0].startswith(f"::error file={SUITE},line=1,title={case_id(HOSTILE)}::")
    assert "\x1b" not in shown(result)
    summary = (runner.path / "summary.md").read_text("utf-8").splitlines()
    assert summary.count("```text") == summary.count("```") == 1
    assert "# heading" not in summary


@pytest.mark.parametrize(
    ("variable", "arguments", "is_on"),
    [
        ("", (), False),
        ("", ("--divergence-github=on",), True),
        ("true", ("--divergence-github=off",), False),
    ],
)
def test_it_is_on_where_the_variable_or_the_option_says_so(
    runner: Project,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    arguments: tuple[str, ...],
    is_on: bool,
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", variable)
    result = runner.run(*MODELS, SUITE, *arguments)
    assert without_numbers(commands(result)) == ([ANNOTATION] if is_on else [])
    assert (runner.path / "summary.md").exists() == is_on


def test_a_session_without_cases_leaves_the_summary_alone(runner: Project) -> None:
    runner.write("test_unit.py", "def test_broken(): assert False\n")
    result = runner.run("test_unit.py")
    assert commands(result) == []
    assert not (runner.path / "summary.md").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (None, "there is no step summary: GITHUB_STEP_SUMMARY is not set"),
        (".", "the step summary . cannot be written: Is a directory"),
    ],
)
def test_a_summary_that_cannot_be_written_is_one_line_and_no_failure(
    runner: Project, monkeypatch: pytest.MonkeyPatch, name: str | None, reason: str
) -> None:
    if name is None:
        monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    else:
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", name)
    result = runner.run(*MODELS, f"{SUITE}::{case_id(POEM)}")
    assert result.ret == pytest.ExitCode.OK
    assert result.outlines.count(f"divergence: {reason}") == 1


def test_what_other_steps_wrote_stays_and_counts_for_the_limit(runner: Project) -> None:
    path = runner.path / "summary.md"
    path.write_text("before", "utf-8")
    runner.run(*MODELS, SUITE)
    assert path.read_text("utf-8").startswith("before\n# pytest-divergence\n")
    path.write_text("x" * (MAX_SUMMARY_BYTES - 300), "utf-8")
    runner.run(*MODELS, SUITE)
    assert MAX_SUMMARY_BYTES - 300 < path.stat().st_size <= MAX_SUMMARY_BYTES
    path.write_text("x" * (MAX_SUMMARY_BYTES - 20), "utf-8")
    result = runner.run(*MODELS, SUITE)
    assert path.stat().st_size == MAX_SUMMARY_BYTES - 20
    assert "divergence: the step summary is full, so nothing was added to it" in result.outlines


def test_a_suite_that_ends_the_session_is_annotated(runner: Project) -> None:
    runner.write(SUITE, '{"input": "a", "max_lk": 1}\n')
    result = runner.run(*MODELS, SUITE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = commands(result)
    assert line == (
        f'::error title=pytest-divergence::{SUITE}:1: unknown key "max_lk"; did you mean "max_kl"?'
    )
    assert 'did you mean "max_kl"?' in (runner.path / "summary.md").read_text("utf-8")


@pytest.mark.slow
def test_with_xdist_only_the_controller_writes_and_names_files_from_the_repository(
    runner: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(runner.path.parent))
    result = runner.run_forked(*MODELS, "-p", "xdist", "-n2", SUITE)
    (annotation,) = without_numbers(commands(result))
    assert annotation == ANNOTATION.replace(SUITE, f"{runner.path.name}/{SUITE}", 1)
    text = (runner.path / "summary.md").read_text("utf-8")
    assert text.count("# pytest-divergence") == 1


def test_a_search_brings_its_own_page(runner: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    result = runner.run(*MODELS, "-p", "tests.plugin.fake_search")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    searched, replayed = commands(result)
    assert searched.startswith("::error file=.divergence/suites/base--ft-")
    assert without_numbers([replayed]) == [ANNOTATION]
    summary = (runner.path / "summary.md").read_text("utf-8")
    assert "- reference: `base`" in summary
    assert "**1 of 2 tests failed.**" in summary
