"""A session that was asked to compare and compared nothing: it fails, or says so in one line."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_divergence.plugin import gaps, session_of
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, nodeid, shown

SUITE = "regress.divergence.jsonl"
INI = "[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = ft\n"
UNIT_TEST = "def test_login(): assert 1 + 1 == 2\n"
PAIR_TEST = "def test_pair(model_pair): assert model_pair.candidate is not None\n"
GIVEN = "--model-1=base and --model-2=ft are given"
OFF = "if you want no comparison, add --divergence-mode=off"
NOT_FOUND = (
    "has no suite and no test that compares models; name a *.divergence.jsonl, use model_pair or "
    "assert_bounded_kl in a test, or add --divergence-builtin-suite=on"
)
NOT_FOUND_IN_CI = (
    "no suite and no test that compares models; name a *.divergence.jsonl, or use model_pair or "
    "assert_bounded_kl in a test"
)
NO_SEARCH = (
    "with a path, only a test that uses divergence_case or hard_prompts starts a search; add "
    "--divergence-builtin-suite=on, or leave the path out"
)
SKIPS = "import pytest\n@pytest.fixture(autouse=True)\ndef skip(): pytest.skip('too slow')\n"
IN_CI = "this fails in CI"
WORKERS = ("-p", "xdist", "-n2")
FAILS, PASSES = pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.OK
Judged = Callable[..., tuple[list[str], int]]


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with a unit test, and a suite of two cases that are far within their bounds."""
    rows = [{"input": prompt, "max_kl": 99.0} for prompt in (KNOT, POEM)]
    project.write_suite(SUITE, *rows)
    project.write("test_unit.py", UNIT_TEST)
    return project


def said(result: pytest.RunResult) -> str:
    """What the last line says; it stands there once."""
    (line,) = [one for one in result.outlines if "nothing was compared" in one]
    assert line == [one for one in result.outlines if one][-1]
    return line


def failure(why: str, asked: str = GIVEN) -> str:
    return f"divergence: nothing was compared, though {asked}: {why}; {OFF}"


def warning(why: str) -> str:
    return (
        "divergence: warning: nothing was compared, though the ini file names models: "
        f"{why}; {IN_CI}"
    )


# Who asks, and what is said: a session that has ended green is judged by its tally


@pytest.fixture
def judged(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Judged:
    """The sentences at the end of a session with these arguments, and its exit code."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def of(*arguments: str, **tallied: Any) -> tuple[list[str], int]:
        config = pytester.parseconfig("-p", "divergence", *arguments)
        tally = config.stash[gaps.KEY] = gaps.Tally(**tallied)
        over: Any = SimpleNamespace(exitstatus=pytest.ExitCode.OK, items=[])
        gaps.finish(over, session_of(config))
        return [f"divergence: {remark.text}" for remark in tally.remarks], over.exitstatus

    return of


def test_models_and_a_mode_that_the_session_itself_names_ask(
    judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = f"test_unit.py {NOT_FOUND}"
    assert judged(*MODELS, "test_unit.py") == ([failure(why)], FAILS)
    assert judged(*MODELS, "test_unit.py", compared={"test_unit.py::test"}) == ([], PASSES)
    search = (*MODELS, "test_unit.py", "--divergence-mode=search")
    not_made = failure(NO_SEARCH, "--divergence-mode=search is given")
    assert judged(*search) == ([not_made], FAILS)

    monkeypatch.setenv("PYTEST_DIVERGENCE_MODE", "replay")
    ((said,), code) = judged(*MODELS, "test_unit.py")
    assert said.startswith(
        "divergence: nothing was compared, though PYTEST_DIVERGENCE_MODE=replay is given: "
    )
    assert code == FAILS
    monkeypatch.delenv("PYTEST_DIVERGENCE_MODE")
    monkeypatch.setenv("PYTEST_DIVERGENCE_MODEL_1", "base")
    monkeypatch.setenv("PYTEST_DIVERGENCE_MODEL_2", "ft")
    given = "PYTEST_DIVERGENCE_MODEL_1=base and PYTEST_DIVERGENCE_MODEL_2=ft are given"
    assert judged("test_unit.py") == ([failure(why, given)], FAILS)


def test_models_of_the_ini_file_ask_in_ci_and_only_warn_elsewhere(
    judged: Judged, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini(INI)
    why = "test_unit.py has no suite and no test that compares models"
    assert judged("test_unit.py") == ([warning(why)], PASSES)
    last = "--lf runs only tests that failed before, and none of these tests compares models"
    assert judged("--lf") == ([warning(last)], PASSES)

    monkeypatch.setenv("CI", "true")
    asked = "the ini file names models and CI is set"
    found = f"pytest found {NOT_FOUND_IN_CI}"
    assert judged() == ([failure(found, asked)], FAILS)
    pytester.makeini("[pytest]\ndivergence_pairs =\n    *gone* = base ft\n")
    assert judged() == ([failure(found, asked)], FAILS)
    # and without any models, a test that needs them
    pytester.makeini("[pytest]\n")
    assert judged("test_unit.py") == ([], PASSES)
    needs = "divergence_case needs two models; give --model-1 and --model-2"
    skipped = {"test_cases.py::test_case": f"divergence: {needs}"}
    asked = "a test uses divergence_case and CI is set"
    assert judged(skipped=skipped) == ([failure(needs, asked)], FAILS)


def test_the_sentence_says_what_kept_the_session_from_comparing(judged: Judged) -> None:
    none = "and none of these tests compares models; run once without it"
    for option, why in (
        ("--setup-only", "--setup-only runs no test; leave it out"),
        ("--sw", f"--sw continues from the last failure, {none}"),
        ("--lf", f"--lf runs only tests that failed before, {none}"),
    ):
        assert judged(*MODELS, option) == ([failure(why)], FAILS)

    skipped = dict.fromkeys((nodeid(SUITE, KNOT), nodeid(SUITE, POEM)), "too slow")
    why = '2 tests that compare models were skipped ("too slow"); let them run'
    assert judged(*MODELS, skipped=skipped) == ([failure(why)], FAILS)
    why = "test_kl.py::test_kl ran and measured nothing; use assert_bounded_kl or model_pair"
    assert judged(*MODELS, idle={"test_kl.py::test_kl"}) == ([failure(why)], FAILS)


@pytest.mark.parametrize(
    "listing",
    ["--divergence-mode=off", "--collect-only", "--setup-plan", "--fixtures", "--markers"],
)
def test_a_session_that_may_not_measure_is_left_alone(judged: Judged, listing: str) -> None:
    assert judged(*MODELS, listing, "test_unit.py") == ([], PASSES)


# What fails


def test_a_folder_without_a_suite_fails_however_quiet_and_on_github(
    suite: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.path / "summary.md"))
    suite.write("sub/test_other.py", UNIT_TEST)
    quiet = ("-qqq", "--no-summary")
    result = suite.run(*MODELS, "sub", *quiet)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert said(result) == failure(f"sub has {NOT_FOUND_IN_CI}")

    result = suite.run(*MODELS, "sub", "--divergence-github=on")
    (line,) = [one for one in result.outlines if one.startswith("::error ")]
    start = "::error title=pytest-divergence::nothing was compared, though --model-1=base and "
    assert line.startswith(start)
    assert "nothing was compared" in (suite.path / "summary.md").read_text("utf-8")


def test_a_search_that_is_not_made_is_missed_beside_what_is_compared(suite: Project) -> None:
    result = suite.run(*MODELS, SUITE, "--divergence-mode=search", "-q")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2)
    assert result.outlines[-1] == (
        f"divergence: no search ran, though --divergence-mode=search is given: {NO_SEARCH}"
    )
    assert not (suite.path / ".divergence").exists()


def test_a_selection_without_any_of_our_items_fails(suite: Project) -> None:
    both = ("--deselect", nodeid(SUITE, KNOT), "--deselect", nodeid(SUITE, POEM))
    result = suite.run(*MODELS, "-qq", *both, ".")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert said(result) == failure(
        f"every item of {SUITE} was deselected; leave out -k, -m and --deselect"
    )


def test_suites_that_are_skipped_or_deselected_whole_are_named(suite: Project) -> None:
    suite.write_suite("sub/other.divergence.jsonl", {"input": KNOT, "max_kl": 99.0})
    suite.write_suite("more.divergence.jsonl", {"input": "Another prompt.", "max_kl": 99.0})
    suite.write("sub/conftest.py", SKIPS)
    result = suite.run(*MODELS, "-q", "-k", "knot or login", ".")
    result.assert_outcomes(passed=2, skipped=1, deselected=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    then = "so nothing in it was compared; name only the suites that you mean"
    assert result.outlines[-2:] == [
        f"divergence: every item of more.divergence.jsonl was deselected, {then}",
        f"divergence: every item of sub/other.divergence.jsonl was skipped, {then}",
    ]


def test_resuming_may_leave_out_a_suite_only_beside_another(suite: Project) -> None:
    """What passed before is no loss as long as something is compared."""
    run = suite.pytester.runpytest_inprocess
    suite.write("test_unit.py", UNIT_TEST.replace("2\n", "3\n"))
    run("-p", "divergence", *MODELS, ".").assert_outcomes(passed=2, failed=1)
    suite.write("test_unit.py", UNIT_TEST)
    result = run("-p", "divergence", *MODELS, "--lf", ".")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert ": --lf runs only tests that failed before, and none of " in said(result)

    suite.write_suite("other.divergence.jsonl", {"input": KNOT, "max_kl": 1e-6})
    run("-p", "divergence", *MODELS, ".").assert_outcomes(passed=3, failed=1)
    suite.write_suite("other.divergence.jsonl", {"input": KNOT, "max_kl": 99.0})
    result = run("-p", "divergence", *MODELS, "--lf", ".")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK


def test_what_workers_skip_is_not_compared(suite: Project) -> None:
    suite.write("test_pair.py", f"import pytest\n@pytest.mark.skip\n{PAIR_TEST}")
    result = suite.run_forked(*MODELS, *WORKERS, "test_pair.py", "test_unit.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert ": 1 test that compares models was skipped (" in said(result)


# What only warns


@pytest.mark.parametrize(
    "arguments", [("-qqq", "--no-summary", "-p", "no:warnings"), (*WORKERS, "-q")]
)
def test_a_developer_with_models_in_the_ini_file_is_warned_once_however_quiet(
    suite: Project, arguments: tuple[str, ...]
) -> None:
    suite.pytester.makeini(INI)
    result = suite.run_forked("-k", "login", *arguments)
    assert result.ret == pytest.ExitCode.OK
    assert said(result) == warning(f"every item of {SUITE} was deselected")


# What is compared


@pytest.mark.parametrize(
    "arguments",
    [
        (nodeid(SUITE, KNOT), "test_unit.py"),
        (SUITE, "--divergence-fill"),
        ("test_pair.py",),
        ("test_late.py",),
        ("test_kl.py",),
    ],
)
def test_what_compares_is_enough(suite: Project, arguments: tuple[str, ...]) -> None:
    suite.write("test_pair.py", PAIR_TEST)
    suite.write("test_late.py", "def test(request): request.getfixturevalue('model_pair')\n")
    suite.write("test_kl.py", f"def test(assert_bounded_kl): assert_bounded_kl({KNOT!r}, 99.0)\n")
    result = suite.run(*MODELS, *arguments)
    assert result.ret == pytest.ExitCode.OK
    assert "nothing was compared" not in shown(result)


def test_a_projects_own_pair_compares(suite: Project) -> None:
    suite.write(
        "conftest.py",
        "import pytest\n"
        "from pytest_divergence import load_model_pair\n"
        "@pytest.fixture(scope='session')\n"
        "def model_pair(): return load_model_pair('base', 'ft')\n",
    )
    suite.write("test_pair.py", PAIR_TEST)
    assert suite.run(*MODELS, "test_pair.py").ret == pytest.ExitCode.OK
    assert suite.run(*MODELS, SUITE).ret == pytest.ExitCode.OK


def test_a_failure_of_its_own_is_not_said_twice(suite: Project) -> None:
    (suite.path / "ft" / "model.safetensors").write_bytes(b"damaged")
    suite.write("test_pair.py", PAIR_TEST)
    result = suite.run(*MODELS, "test_pair.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(errors=1)
    assert "nothing was compared" not in shown(result)


def test_prompts_of_a_search_are_a_comparison_and_those_of_a_suite_are_none(
    project: Project,
) -> None:
    project.write("test_prompts.py", "def test_prompts(hard_prompts): pass\n")
    arguments = ("-p", "tests.plugin.fake_search", *MODELS, "test_prompts.py")
    assert project.run(*arguments).ret == pytest.ExitCode.OK
    replayed = project.run(*arguments, "--divergence-mode=replay")
    assert replayed.ret == pytest.ExitCode.TESTS_FAILED
    assert ": test_prompts.py::test_prompts ran and measured nothing; " in said(replayed)


def test_what_fails_anyway_keeps_its_exit_code(suite: Project) -> None:
    usage = suite.run(*MODELS, "gone.divergence.jsonl", "test_unit.py")
    assert usage.ret == pytest.ExitCode.USAGE_ERROR
    assert "gone.divergence.jsonl" in usage.errlines[0]
    assert "nothing was compared" not in shown(usage)
    suite.write("test_stop.py", "def test_stop(): raise KeyboardInterrupt\n")
    stopped = suite.run_forked(*MODELS, "test_stop.py")
    assert stopped.ret == pytest.ExitCode.INTERRUPTED
    assert "nothing was compared" not in shown(stopped)
    none = suite.run(*MODELS, "-k", "nothing", SUITE)
    assert none.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert f"every item of {SUITE} was deselected" in said(none)
