"""`pytest-divergence discover`: a session's search under the project's rules, and no tests."""

from __future__ import annotations

import json
import shlex

import pytest

from pytest_divergence.cli import main
from pytest_divergence.core.file_names import suite_path
from tests.cli.conftest import FAKE_SEARCH, Command
from tests.plugin.conftest import MODELS, Project
from tests.plugin.test_search import TINY_SEARCH

SUMMARY = """\
The models behave differently. 1 of 2 prompts found by the search shows more
divergence than the bound, 0.200 nats/token.

1 case over the bound of 0.200 nats/token:
    0.250  How do I tie a knot?

search: 312 prompts scored, 0 tokens forwarded, 0.0 s

report: .divergence/reports/run/report.html
keep:   pytest-divergence promote latest tests/release.divergence.jsonl
"""


def own_suite(project: Project) -> str:
    return suite_path(project.path, "base", "ft").relative_to(project.path).as_posix()


def searches(project: Project) -> list[str]:
    return (project.path / "searches.log").read_text("utf-8").splitlines()


def test_the_summary_is_a_sessions_and_findings_are_no_failure(
    project: Project, command: Command
) -> None:
    done = command("discover", *MODELS, **FAKE_SEARCH)

    assert done.returncode == 0
    assert done.stdout == SUMMARY
    assert done.stderr == "divergence: looking\n"
    assert searches(project) == ["search of ft"]
    assert (project.path / ".divergence/reports/latest/report.html").is_file()


@pytest.mark.slow
def test_cases_are_kept_of_this_run_wherever_its_report_is(
    project: Project, command: Command
) -> None:
    command("discover", "--model-1=base", "--model-2=adapter", **FAKE_SEARCH)
    done = command("discover", *MODELS, "--report-dir=out", **FAKE_SEARCH)

    keep = done.stdout.splitlines()[-1]
    assert keep == "keep:   pytest-divergence promote out/run tests/release.divergence.jsonl"
    (project.path / "tests").mkdir()
    kept = command(*shlex.split(keep)[2:])
    assert "--model-1 base --model-2 ft" in kept.stdout, kept.stderr


def test_the_project_decides_as_it_does_for_pytest(project: Project, command: Command) -> None:
    """Models of the ini file, hooks of conftest.py, and of a plugin that it registers."""
    project.pytester.makeini("[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = ft\n")
    project.write(
        "conftest.py",
        """
def pytest_divergence_categorise(config, case):
    return "about knots" if "knot" in case.text else None

class Poemless:
    def pytest_divergence_modify_cases(self, config, cases):
        cases[:] = [case for case in cases if "poem" not in case.text]

def pytest_configure(config):
    config.pluginmanager.register(Poemless())
""",
    )
    project.write("test_unit.py", "raise SystemExit('no test file is imported')\n")

    done = command("discover", "--json", CI="true", **FAKE_SEARCH)

    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, (project.path / own_suite(project)).read_text("utf-8").splitlines())
    assert row["input"] == "How do I tie a knot?"
    assert row["metadata"] == {"category": "about knots"}
    report = project.path / ".divergence/reports/latest/report.json"
    assert done.stdout == report.read_text("utf-8"), "JSON is the report"


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("no gradient", 1, "error: no gradient reached the soft prompt\n"),
        (
            "errors",
            1,
            'error: the search cannot vouch for the models: soft_prompt: "broke"\n',
        ),
        (
            "incomplete",
            1,
            "error: the search cannot vouch for the models: it stopped before it was complete; "
            "its leads were not judged\n",
        ),
        ("interrupted", 130, "stopped\n"),
    ],
)
def test_a_search_that_did_not_come_to_its_end_is_no_success(
    project: Project, command: Command, ending: str, code: int, said: str
) -> None:
    done = command("discover", *MODELS, FAKE_SEARCH=ending, **FAKE_SEARCH)

    assert done.returncode == code
    assert done.stderr == f"divergence: looking\n{said}"
    assert ("Run the same command to continue" in " ".join(done.stdout.split())) is (
        ending in ("incomplete", "interrupted")
    )


def test_a_search_that_began_anew_is_not_continued_by_the_command_that_would_forget_it(
    project: Project, command: Command
) -> None:
    done = command("discover", *MODELS, "--anew", FAKE_SEARCH="interrupted", **FAKE_SEARCH)

    assert searches(project) == ["search of ft, forced"]
    assert (
        "Run the same command to continue, but without --divergence-mode=search (discover: "
        "--anew), which starts anew. "
    ) in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (),
            "--model-1 is missing; set it, PYTEST_DIVERGENCE_MODEL_1, or divergence_model_1 in "
            "the ini file",
        ),
        (("--model-1=base", "--model-2=./nowhere"), "--model-2: no folder './nowhere' here, and"),
        ((*MODELS, "--budget=much"), "--divergence-budget=much: must be a number of forwarded"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    project: Project, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert main(["discover", *words]) == 1

    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 1
    assert not (project.path / ".divergence").exists()


def test_a_broken_conftest_is_explained_by_pytest(project: Project, command: Command) -> None:
    project.write("conftest.py", "1 / 0\n")

    done = command("discover", *MODELS)

    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert done.stderr.endswith(
        "error: pytest cannot start in this folder; see its message above\n"
    )


@pytest.mark.slow
def test_pytest_reads_back_what_the_command_has_found(project: Project, command: Command) -> None:
    """One journal, one suite: nothing is searched a second time, from either side."""
    project.write(
        "conftest.py",
        "from pytest_divergence.core.settings import PROFILES\n"
        f"PROFILES['smoke'] = PROFILES['smoke'].model_copy(update={TINY_SEARCH!r})\n",
    )
    pair = ("--model-1=base", "--model-2=adapter")

    found = command("discover", *pair, "--max-kl=0.001")
    suite = suite_path(project.path, "base", "adapter")
    journal = project.path / ".divergence" / "journal" / f"{suite.name.split('.')[0]}.jsonl"
    before = (suite.read_bytes(), journal.read_bytes())
    session = project.run_forked(*pair, "--divergence-max-kl=0.001")
    again = command("discover", *pair, "--divergence-max-kl=0.001", "--json")

    assert found.returncode == again.returncode == 0, found.stderr
    assert "over the bound of 0.001 nats/token:" in found.stdout
    assert session.ret == pytest.ExitCode.TESTS_FAILED
    assert (suite.read_bytes(), journal.read_bytes()) == before
    assert json.loads(again.stdout)["effort"]["tokens_forwarded"] > 0
