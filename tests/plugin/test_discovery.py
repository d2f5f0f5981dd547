"""When a session searches, how often, and what becomes of the search's end, good or bad.

The search itself is a fake here (`fake_search`); the real one is in `test_search`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

import pytest

from pytest_divergence.core.cases import case_id
from pytest_divergence.core.file_names import suite_path
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, block, nodeid, shown

INI = "[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = ft\n"
UNIT_TEST = "def test_addition(): assert 1 + 1 == 2\n"
CASE_TEST = "def test_case(divergence_case): assert divergence_case.text\n"
TWO_WORKERS = ("-p", "xdist", "-n2")

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(project: Project, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A session whose searches are fake ones, with an ending of `fake_search`."""

    def one(*arguments: str, is_forked: bool = False, ending: str = "found") -> pytest.RunResult:
        monkeypatch.setenv("FAKE_SEARCH", ending)
        run = project.run_forked if is_forked else project.run
        return run("-p", "tests.plugin.fake_search", *arguments)

    return one


def searches(project: Project) -> Sequence[str]:
    log = project.path / "searches.log"
    return log.read_text("utf-8").splitlines() if log.exists() else []


def own_suite(project: Project) -> str:
    return suite_path(project.path, "base", "ft").relative_to(project.path).as_posix()


# Moments


def test_without_any_test_the_cases_are_the_tests(project: Project, run: Run) -> None:
    result = run(*MODELS, "-v", "-rP")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            f"{own_suite(project)}::search PASSED *",
            f"{nodeid(own_suite(project), KNOT)} FAILED *",
            f"{nodeid(own_suite(project), POEM)} PASSED *",
        ],
        consecutive=True,
    )
    assert (
        "312 prompts scored, 1 over the bound; 0 confirmed; the mirror image of the search "
        "confirmed 0; of leads that 2 in 10 answers show, 93% are confirmed"
    ) in result.outlines
    one = run(*MODELS, "-v", nodeid(own_suite(project), KNOT))
    assert "1 stored case replayed: " in shown(one)
    assert "KL 0.250" not in shown(one), "the search's value, and not this session's"
    assert searches(project) == ["search of ft"]


def test_they_join_the_projects_own_tests(project: Project, run: Run) -> None:
    project.pytester.makeini("[pytest]\ntestpaths = tests\n")
    project.write("tests/test_unit.py", UNIT_TEST)
    project.write("tests/test_cases.py", CASE_TEST)
    result = run(*MODELS)
    result.assert_outcomes(passed=2 + 1 + 2, failed=1)
    assert searches(project) == ["search of ft"]


def test_a_named_path_is_run_alone_unless_the_cases_are_asked_for(
    project: Project, run: Run
) -> None:
    project.write("test_unit.py", UNIT_TEST)
    run(*MODELS, "test_unit.py").assert_outcomes(passed=1)
    assert searches(project) == []
    result = run(*MODELS, "--divergence-builtin-suite=on", "test_unit.py")
    result.assert_outcomes(passed=3, failed=1)


def test_models_of_the_ini_file_are_searched_when_a_test_takes_cases(
    project: Project, run: Run
) -> None:
    project.pytester.makeini(INI)
    project.write("test_unit.py", UNIT_TEST)
    run().assert_outcomes(passed=1)
    assert searches(project) == []
    project.write("test_cases.py", CASE_TEST)
    run().assert_outcomes(passed=3)
    assert searches(project) == ["search of ft"]


def test_listing_shows_what_is_there_without_a_search(project: Project, run: Run) -> None:
    project.write("test_cases.py", CASE_TEST)
    before = run(*MODELS, "--collect-only", "-v")
    assert "test_case[pending]" in shown(before)
    assert searches(project) == []
    run(*MODELS)
    after = run(*MODELS, "--collect-only", "-v")
    assert f"test_case[{case_id(KNOT)}]" in shown(after)
    assert "pending" not in shown(after)
    assert searches(project) == ["search of ft"]


def test_another_pairs_suite_stays_hidden(project: Project, run: Run) -> None:
    run("--model-1=base", "--model-2=adapter")
    run(*MODELS, ".").assert_outcomes()
    assert "collected 0 items" in shown(run(*MODELS, "."))
    run(*MODELS).assert_outcomes(passed=2, failed=1)
    run(".").assert_outcomes()


def test_a_models_folder_that_pytest_takes_for_its_root_changes_no_file(
    project: Project, run: Run
) -> None:
    """As `--model-2 /elsewhere/ft` does where the project has no ini file."""
    result = run(*MODELS, "--rootdir=ft")
    result.assert_outcomes(passed=2, failed=1)
    (start,) = (one for one in result.outlines if one.startswith("    pytest "))
    assert start == f"    pytest {nodeid(own_suite(project), KNOT)} \\"
    assert "stored cases replayed" not in shown(result)


# Replay


def test_without_a_suite_nothing_can_be_replayed_and_in_ci_a_search_is_asked_for(
    project: Project, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("test_cases.py", CASE_TEST)

    def refused(why: str, *arguments: str) -> None:
        result = run(*MODELS, *arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert result.errlines == [
            "ERROR: there is no suite to replay: no *.divergence.jsonl is given and "
            f"{own_suite(project)} does not exist{why}; commit a suite and name it, or search with "
            "--divergence-mode=search",
            "",
        ]
        assert searches(project) == []

    refused("", "--divergence-mode=replay")
    monkeypatch.setenv("CI", "true")
    refused(", and in CI a search runs only if you ask for it")
    run(*MODELS, "--divergence-mode=search", "test_cases.py").assert_outcomes(passed=2)
    assert searches(project) == ["search of ft, forced"]


def test_in_ci_the_committed_suite_is_replayed(
    project: Project, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    project.write_suite("tests/a.divergence.jsonl", {"input": KNOT, "max_kl": 9.0})
    run(*MODELS).assert_outcomes(passed=1)
    assert searches(project) == []


def test_named_suites_are_what_divergence_case_stands_for(project: Project, run: Run) -> None:
    project.write_suite("a.divergence.jsonl", {"input": KNOT, "max_kl": 9.0})
    project.write("test_cases.py", CASE_TEST)
    result = run(*MODELS, "a.divergence.jsonl", "test_cases.py", "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"test_cases.py::test_case[[]{case_id(KNOT)}[]] PASSED*"])
    assert searches(project) == []


def test_a_test_that_fails_on_a_case_is_run_again_without_a_search(
    project: Project, run: Run
) -> None:
    project.write(
        "test_own.py",
        "def test_own(divergence_case, assert_bounded_kl):\n"
        "    assert_bounded_kl(divergence_case, max_kl=0.001)\n",
    )
    result = run(*MODELS, "test_own.py", "-k", KNOT.split()[-1].strip("?"))
    result.assert_outcomes(failed=1, deselected=1)
    words = shlex.split(" ".join(block(result, "  rerun:", 4)[1:]).replace("\\", " "))
    again = run(*words[1:], "-v")

    assert searches(project) == ["search of ft"]
    again.assert_outcomes(failed=2)
    again.stdout.fnmatch_lines([f"test_own.py::test_own[[]{case_id(KNOT)}[]] FAILED*"])


# What goes wrong


@pytest.mark.parametrize("is_lazy", [False, True])
def test_an_error_of_the_search_ends_the_session_in_one_line(
    project: Project, run: Run, is_lazy: bool
) -> None:
    project.write("test_cases.py", CASE_TEST)
    result = run(*MODELS, *(["test_cases.py"] if is_lazy else []), ending="no gradient")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == ["ERROR: no gradient reached the soft prompt", ""]
    assert searches(project) == ["search of ft"]


def test_an_unexpected_error_leaves_its_traceback_in_a_file(project: Project, run: Run) -> None:
    result = run(*MODELS, ending="crash")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    file = ".divergence/reports/discovery-error.txt"
    assert result.errlines[0] == (
        'ERROR: discovery failed: RuntimeError: "something broke\\u{a}in two lines"; the '
        f"traceback is in {file}"
    )
    traceback = (project.path / file).read_text("utf-8")
    assert "Traceback" in traceback
    assert "RuntimeError: something broke" in traceback


def test_ctrl_c_in_the_search_shows_what_was_found(project: Project, run: Run) -> None:
    result = run(*MODELS, is_forked=True, ending="interrupted")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        ["The run stopped early; *", "report: .divergence/reports/run/report.html"]
    )
    assert (project.path / ".divergence/reports/run/summary.md").exists()


def test_ctrl_c_before_the_workers_start_says_where_to_look(project: Project, run: Run) -> None:
    result = run(
        *MODELS, *TWO_WORKERS, "--divergence-mode=search", is_forked=True, ending="interrupted"
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert (
        "divergence: stopped; the results so far are in .divergence/reports/run; run the same "
        "command to continue, but without --divergence-mode=search (discover: --anew), which "
        "starts anew"
    ) in result.outlines


def test_a_search_that_did_not_see_everything_is_an_error(project: Project, run: Run) -> None:
    result = run(*MODELS, ending="incomplete")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    assert (
        "the search cannot vouch for the models: it stopped before it was complete; its leads "
        "were not judged"
    ) in result.outlines
    assert "1 failed = 1 case." in result.outlines
    assert "Exit code 1 means" not in shown(result), "the search broke, too"
    page = (project.path / ".divergence/reports/run/report.html").read_text("utf-8")
    assert "Exit code 1 means" not in page


def test_such_a_search_fails_the_session_without_its_item_too(project: Project, run: Run) -> None:
    project.write(
        "test_own.py",
        "def test_own(divergence_case, assert_bounded_kl):\n"
        "    assert_bounded_kl(divergence_case, max_kl=9.0)\n",
    )
    result = run(*MODELS, "--divergence-builtin-suite=off", ending="errors")
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    said = 'divergence: the search cannot vouch for the models: soft_prompt: "broke"'
    assert result.outlines[-1] == said


# Hooks

HOOKS = """
def pytest_divergence_modify_cases(config, cases):
    cases[:] = [case for case in cases if "poem" in case.text]

def pytest_divergence_report(config, report):
    print("seen:", report.run.status, len(report.cases))
"""


def test_hooks_change_the_cases_and_see_the_report(project: Project, run: Run) -> None:
    project.write("conftest.py", HOOKS)
    result = run(*MODELS, "-s")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*seen: complete 1"])


# divergence_case


def test_a_path_that_takes_cases_searches_and_a_marker_filters_them(
    project: Project, run: Run
) -> None:
    project.write(
        "test_cases.py",
        f"""
import pytest

def test_prompts(hard_prompts): assert set(hard_prompts) == {{{KNOT!r}, {POEM!r}}}

def test_case(divergence_case): assert divergence_case.text

@pytest.mark.divergence(limit=1)
def test_worst(divergence_case): pass

@pytest.mark.divergence(id={case_id(POEM)!r})
def test_one(divergence_case): pass

@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.divergence(limit=1)
def test_both(number, divergence_case): pass
""",
    )
    result = run(*MODELS, "test_cases.py", "-v")
    result.assert_outcomes(passed=1 + 2 + 4)
    assert searches(project) == ["search of ft"]
    lines = [line.split()[0] for line in result.outlines if line.startswith("test_cases.py::")]
    assert lines == [
        "test_cases.py::test_prompts",
        f"test_cases.py::test_case[{case_id(KNOT)}]",
        f"test_cases.py::test_case[{case_id(POEM)}]",
        f"test_cases.py::test_worst[{case_id(KNOT)}]",
        f"test_cases.py::test_one[{case_id(POEM)}]",
        f"test_cases.py::test_both[{case_id(KNOT)}-1]",
        f"test_cases.py::test_both[{case_id(KNOT)}-2]",
    ]


def test_asking_for_a_case_too_late_is_explained(project: Project, run: Run) -> None:
    project.write(
        "test_cases.py",
        "def test_case(request): request.getfixturevalue('divergence_case')\n",
    )
    result = run(*MODELS)
    assert "divergence_case must be an argument of the test" in shown(result)


# pytest-xdist


@pytest.mark.slow
def test_workers_get_the_cases_of_one_search(project: Project, run: Run) -> None:
    """A bad suite that pytest ignores ends no session."""
    project.write("drafts/b.divergence.jsonl", "{}\n")
    project.write("conftest.py", "collect_ignore = ['drafts']\n")
    project.write("test_unit.py", UNIT_TEST)
    project.write("test_cases.py", CASE_TEST + "def test_prompts(hard_prompts): pass\n")
    result = run(*MODELS, *TWO_WORKERS, "-v", is_forked=True)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=6, failed=1)
    assert searches(project) == ["search of ft"]
    assert "INTERNALERROR" not in shown(result)
    suite = own_suite(project)
    workers = {line.split()[0] for line in result.outlines if f"PASSED {suite}::" in line}
    assert len(workers) == 1
    result.stdout.fnmatch_lines(["report: .divergence/reports/run/report.html"])


@pytest.mark.slow
def test_with_models_of_the_ini_file_one_worker_searches(project: Project, run: Run) -> None:
    project.pytester.makeini(INI)
    project.write("test_cases.py", CASE_TEST)
    result = run(*TWO_WORKERS, is_forked=True)
    assert result.ret == pytest.ExitCode.OK, "what workers compare is compared"
    result.assert_outcomes(passed=2)
    assert searches(project) == ["search of ft"]
    result.stdout.fnmatch_lines(["report: .divergence/reports/run/report.html"])


@pytest.mark.slow
def test_a_search_that_fails_in_one_worker_is_not_repeated(project: Project, run: Run) -> None:
    project.pytester.makeini(INI)
    project.write("test_cases.py", CASE_TEST)
    result = run(*TWO_WORKERS, is_forked=True, ending="no gradient")
    assert result.ret not in (0, pytest.ExitCode.INTERNAL_ERROR)
    assert "no gradient reached the soft prompt" in shown(result)
    assert searches(project) == ["search of ft"]


def test_a_bad_suite_ends_a_session_with_workers_too(project: Project, run: Run) -> None:
    project.write("a.divergence.jsonl", "{}\n")
    result = run(*MODELS, *TWO_WORKERS, "a.divergence.jsonl", is_forked=True)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0].startswith("ERROR: a.divergence.jsonl:1: ")
