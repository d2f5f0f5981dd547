"""`pytest-divergence replay`: suites as tests, with pytest's output and exit codes."""

from __future__ import annotations

import pytest

from pytest_divergence.cli import main
from tests.cli.conftest import Command
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, nodeid

INI = "[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = ft\n"


@pytest.fixture
def suites(project: Project) -> Project:
    """A project with its models in the ini file, two suites and a test that would fail."""
    project.pytester.makeini(INI)
    project.write_suite("tests/wide.divergence.jsonl", {"input": KNOT, "max_kl": 99})
    rows = ({"input": KNOT, "max_kl": 99}, {"input": POEM, "max_kl": 0.001})
    project.write_suite("tests/narrow.divergence.jsonl", *rows)
    project.write_suite("tests/.old/gone.divergence.jsonl", {"input": POEM, "max_kl": 0.001})
    project.write("tests/test_unit.py", "def test_unit(): raise SystemError\n")
    return project


def test_a_folders_suites_are_the_whole_session(suites: Project, command: Command) -> None:
    done = command("replay", "tests", "--device=cpu", PYTEST_ADDOPTS="-v")

    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    results = [
        line.split()[:2] for line in done.stdout.splitlines() if "::" in line and "%" in line
    ]
    assert results == [
        [nodeid("tests/narrow.divergence.jsonl", KNOT), "PASSED"],
        [nodeid("tests/narrow.divergence.jsonl", POEM), "FAILED"],
        [nodeid("tests/wide.divergence.jsonl", KNOT), "PASSED"],
    ]
    assert "divergence: reference base (ini), candidate ft (ini)" in done.stdout
    assert not (suites.path / ".divergence").exists()


def test_one_case_on_other_models_passes(suites: Project, command: Command) -> None:
    case = nodeid("tests/narrow.divergence.jsonl", POEM)

    twice = ("--model-1=base", "--model-2=base", "--allow-same-model")
    done = command("replay", case, *twice, CI="true")

    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert "divergence: reference base (command line), candidate base" in done.stdout
    assert " 1 passed in " in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests/test_unit.py", "is not a suite; name a *.divergence.jsonl, or a folder of them"),
        ("base", "there is no *.divergence.jsonl in base; run a search and promote its cases"),
    ],
)
def test_what_is_no_suite_is_a_usage_error(
    suites: Project, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    assert main(["replay", name]) == pytest.ExitCode.USAGE_ERROR

    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert not shown.out


def test_a_suite_that_is_not_there_is_pytests_usage_error(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", "gone.divergence.jsonl", *MODELS]) == pytest.ExitCode.USAGE_ERROR

    assert "ERROR: file or directory not found: gone.divergence.jsonl" in capsys.readouterr().err
