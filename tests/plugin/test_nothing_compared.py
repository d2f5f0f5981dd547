"""A session that was asked to compare and compared nothing: it fails, or says so in one line."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import KNOT, MODELS, POEM, Project, nodeid, shown
from tests.plugin.test_search import TINY_SEARCH

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
    "has no suite and no test that compares models; name a *.divergence.jsonl, or use model_pair "
    "or assert_bounded_kl in a test"
)
IN_CI = "this fails in CI"
WORKERS = ("-p", "xdist", "-n2")


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with a unit test, and a suite of two cases that are far within their bounds."""
    rows = [{"input": prompt, "max_kl": 99.0} for prompt in (KNOT, POEM)]
    project.write_suite(SUITE, *rows)
    project.write("test_unit.py", UNIT_TEST)
    return project


@pytest.fixture
def in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CI service."""
    monkeypatch.setenv("CI", "true")


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


# What fails


@pytest.mark.parametrize("quiet", ["-v", "-q", "-qqq", "--no-summary"])
def test_a_folder_without_a_suite_fails(suite: Project, in_ci: None, quiet: str) -> None:
    suite.write("sub/test_other.py", UNIT_TEST)
    result = suite.run(*MODELS, "sub", quiet)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert said(result) == failure(f"sub {NOT_FOUND_IN_CI}")


def test_models_in_the_environment_ask_too(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DIVERGENCE_MODEL_1", "base")
    monkeypatch.setenv("PYTEST_DIVERGENCE_MODEL_2", "ft")
    result = suite.run("test_unit.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    asked = "PYTEST_DIVERGENCE_MODEL_1=base and PYTEST_DIVERGENCE_MODEL_2=ft are given"
    assert said(result) == failure(f"test_unit.py {NOT_FOUND}", asked)


def test_a_mode_in_the_environment_asks_too(
    suite: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DIVERGENCE_MODE", "replay")
    result = suite.run(*MODELS, "test_unit.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert said(result).startswith(
        "divergence: nothing was compared, though PYTEST_DIVERGENCE_MODE=replay is given: "
    )


def test_a_search_that_is_not_made_beside_a_path_fails(suite: Project) -> None:
    arguments = ("--divergence-mode=search", "--divergence-max-kl=0.001")
    result = suite.run(*MODELS, "test_unit.py", *arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert said(result) == failure(
        "with a path, only a test that uses divergence_case or hard_prompts starts a search; add "
        "--divergence-builtin-suite=on, or leave the path out",
        "--divergence-mode=search is given",
    )
    assert not (suite.path / ".divergence").exists()


def test_a_search_that_is_not_made_is_missed_beside_what_is_compared(suite: Project) -> None:
    result = suite.run(*MODELS, SUITE, "--divergence-mode=search", "-q")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2)
    assert result.outlines[-1] == (
        "divergence: no search ran, though --divergence-mode=search is given: with a path, only a "
        "test that uses divergence_case or hard_prompts starts a search; add "
        "--divergence-builtin-suite=on, or leave the path out"
    )


def test_a_renamed_suite_fails_in_ci_with_models_of_the_ini_file(
    suite: Project, in_ci: None
) -> None:
    suite.pytester.makeini(f"{INI}divergence_mode = replay\n")
    (suite.path / SUITE).rename(suite.path / "regress.divergence.jsonl.old")
    result = suite.run()
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert said(result) == failure(
        "pytest found no suite and no test that compares models; name a *.divergence.jsonl, or use "
        "model_pair or assert_bounded_kl in a test",
        "the ini file names models and CI is set",
    )


def test_a_pair_of_divergence_pairs_is_missed_in_ci_too(suite: Project, in_ci: None) -> None:
    suite.pytester.makeini("[pytest]\ndivergence_pairs =\n    *gone* = base ft\n")
    result = suite.run("test_unit.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "the ini file names models and CI is set" in said(result)


@pytest.mark.parametrize(
    "arguments",
    [
        ("-k", "login"),
        ("-m", "not divergence"),
        ("-q", "--deselect", SUITE),
        ("-qq", "--deselect", nodeid(SUITE, KNOT), "--deselect", nodeid(SUITE, POEM)),
    ],
)
def test_a_selection_without_any_of_our_items_fails(
    suite: Project, arguments: tuple[str, ...]
) -> None:
    result = suite.run(*MODELS, *arguments, ".")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert said(result) == failure(
        f"every item of {SUITE} was deselected; leave out -k, -m and --deselect"
    )


@pytest.mark.parametrize("models", [MODELS, ()], ids=["command line", "ini file in CI"])
def test_a_suite_whose_items_are_all_skipped_fails(
    suite: Project, models: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not models:
        suite.pytester.makeini(INI)
        monkeypatch.setenv("CI", "true")
    suite.write(
        "conftest.py",
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items:\n"
        "        if 'divergence' in item.nodeid:\n"
        "            item.add_marker(pytest.mark.skip(reason='too slow'))\n",
    )
    result = suite.run(*models, SUITE, "test_unit.py")
    result.assert_outcomes(passed=1, skipped=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    skipped = '2 tests that compare models were skipped ("too slow")'
    assert f": {skipped}; let them run; if " in said(result)


def test_one_of_two_suites_that_is_skipped_whole_is_named(suite: Project) -> None:
    suite.write_suite("sub/other.divergence.jsonl", {"input": KNOT, "max_kl": 99.0})
    suite.write(
        "sub/conftest.py",
        "import pytest\n@pytest.fixture(autouse=True)\ndef skip(): pytest.skip('too slow')\n",
    )
    result = suite.run(*MODELS, "-q", ".")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.outlines[-1] == (
        "divergence: every item of sub/other.divergence.jsonl was skipped, so nothing in it was "
        "compared; name only the suites that you mean"
    )


def test_a_test_of_cases_that_is_skipped_for_want_of_models_fails_in_ci(
    suite: Project, in_ci: None
) -> None:
    suite.write("test_cases.py", "def test_case(divergence_case): pass\n")
    result = suite.run("test_cases.py", "test_unit.py")
    result.assert_outcomes(passed=1, skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert said(result) == failure(
        "divergence_case needs two models; give --model-1 and --model-2",
        "a test uses divergence_case and CI is set",
    )


def test_a_test_of_the_pair_that_is_skipped_compares_nothing(suite: Project) -> None:
    suite.write("test_pair.py", f"import pytest\n@pytest.mark.skip\n{PAIR_TEST}")
    result = suite.run(*MODELS, "test_pair.py", "test_unit.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert ": 1 test that compares models was skipped (" in said(result)


def test_a_test_that_never_calls_its_assertion_compares_nothing(suite: Project) -> None:
    suite.write("test_kl.py", "def test_kl(assert_bounded_kl): pass\n")
    result = suite.run(*MODELS, "test_kl.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert ": test_kl.py::test_kl ran and measured nothing; " in said(result)


def test_set_up_alone_compares_nothing(suite: Project) -> None:
    result = suite.run(*MODELS, "--setup-only", SUITE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "--setup-only runs no test" in said(result)


def test_the_last_failure_of_another_test_fails(suite: Project) -> None:
    run = suite.pytester.runpytest_inprocess
    suite.write("test_unit.py", UNIT_TEST.replace("2\n", "3\n"))
    run("-p", "divergence", *MODELS, ".").assert_outcomes(passed=2, failed=1)
    suite.write("test_unit.py", UNIT_TEST)
    result = run("-p", "divergence", *MODELS, "--lf", ".")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert said(result) == failure(
        "--lf runs only tests that failed before, and none of these tests compares models; run "
        "once without it"
    )


def test_stepping_on_past_the_suite_fails(suite: Project) -> None:
    run = suite.pytester.runpytest_inprocess
    suite.write("test_unit.py", UNIT_TEST.replace("2\n", "3\n"))
    run("-p", "divergence", *MODELS, "--sw", ".").assert_outcomes(passed=2, failed=1)
    suite.write("test_unit.py", UNIT_TEST)
    result = run("-p", "divergence", *MODELS, "--sw", ".")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    why = ": --sw continues from the last failure, and none of these tests compares models; "
    assert why in said(result)


def test_resuming_may_leave_a_suite_out_beside_another(suite: Project) -> None:
    """What passed before is no loss as long as something is compared."""
    run = suite.pytester.runpytest_inprocess
    suite.write_suite("other.divergence.jsonl", {"input": KNOT, "max_kl": 1e-6})
    run("-p", "divergence", *MODELS, ".").assert_outcomes(passed=3, failed=1)
    suite.write_suite("other.divergence.jsonl", {"input": KNOT, "max_kl": 99.0})
    result = run("-p", "divergence", *MODELS, "--lf", ".")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("where", ["command line", "ini file in CI"])
def test_workers_compare_nothing(
    suite: Project, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    models: tuple[str, ...] = MODELS
    if where != "command line":
        suite.pytester.makeini(INI)
        monkeypatch.setenv("CI", "true")
        models = ()
    result = suite.run_forked(*models, *WORKERS, "test_unit.py", "-q")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert f": test_unit.py {NOT_FOUND[:40]}" in said(result)


def test_workers_deselect_and_skip(suite: Project) -> None:
    result = suite.run_forked(*MODELS, *WORKERS, "-k", "login", ".")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert f"every item of {SUITE} was deselected" in said(result)
    suite.write("test_pair.py", f"import pytest\n@pytest.mark.skip\n{PAIR_TEST}")
    result = suite.run_forked(*MODELS, *WORKERS, "test_pair.py", "test_unit.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert ": 1 test that compares models was skipped (" in said(result)


def test_it_is_annotated_on_github(
    suite: Project, in_ci: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.path / "summary.md"))
    result = suite.run(*MODELS, "test_unit.py", "--divergence-github=on")
    (line,) = [one for one in result.outlines if one.startswith("::error ")]
    start = "::error title=pytest-divergence::nothing was compared, though --model-1=base and "
    assert line.startswith(start)
    assert "nothing was compared" in (suite.path / "summary.md").read_text("utf-8")


# What only warns


@pytest.mark.parametrize(
    "quiet", [(), ("-v",), ("-q",), ("-qq",), ("-qqq",), ("--no-summary",), ("-p", "no:warnings")]
)
def test_a_developer_with_models_in_the_ini_file_is_warned(
    suite: Project, quiet: tuple[str, ...]
) -> None:
    suite.pytester.makeini(INI)
    result = suite.pytester.runpytest_inprocess(
        "-p", "divergence", "-p", "no:cacheprovider", "-k", "login", *quiet
    )
    assert result.ret == pytest.ExitCode.OK
    assert said(result) == warning(f"every item of {SUITE} was deselected")


def test_a_developer_who_runs_one_file_is_warned(suite: Project) -> None:
    suite.pytester.makeini(INI)
    result = suite.run("test_unit.py")
    assert result.ret == pytest.ExitCode.OK
    assert said(result) == warning("test_unit.py has no suite and no test that compares models")


def test_the_last_failure_of_another_test_only_warns_a_developer(suite: Project) -> None:
    suite.pytester.makeini(INI)
    run = suite.pytester.runpytest_inprocess
    suite.write("test_unit.py", UNIT_TEST.replace("2\n", "3\n"))
    run("-p", "divergence")
    suite.write("test_unit.py", UNIT_TEST)
    result = run("-p", "divergence", "--lf", "-q")
    assert result.ret == pytest.ExitCode.OK
    assert said(result) == warning(
        "--lf runs only tests that failed before, and none of these tests compares models"
    )


def test_workers_warn_a_developer_once(suite: Project) -> None:
    suite.pytester.makeini(INI)
    result = suite.run_forked(*WORKERS, "-k", "login", "-q")
    assert result.ret == pytest.ExitCode.OK
    assert said(result) == warning(f"every item of {SUITE} was deselected")


# What is compared


COMPARED = [
    (SUITE,),
    (nodeid(SUITE, KNOT), "test_unit.py"),
    (SUITE, "--divergence-fill"),
    ("test_pair.py",),
    ("test_kl.py",),
    ("test_late.py",),
]


@pytest.mark.parametrize(
    ("workers", "arguments"),
    # Workers start slowly, so not all is tried with them; and they refuse to fill.
    [*(((), words) for words in COMPARED), *((WORKERS, words) for words in COMPARED[::4])],
)
def test_what_compares_is_enough(
    suite: Project, arguments: tuple[str, ...], workers: tuple[str, ...]
) -> None:
    suite.write("test_pair.py", PAIR_TEST)
    suite.write("test_late.py", "def test(request): request.getfixturevalue('model_pair')\n")
    suite.write("test_kl.py", f"def test(assert_bounded_kl): assert_bounded_kl({KNOT!r}, 99.0)\n")
    run = suite.run_forked if workers else suite.run
    result = run(*MODELS, *arguments, *workers)
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
    project.write(
        "conftest.py",
        "from pytest_divergence.core.settings import PROFILES\n"
        f'PROFILES["smoke"] = PROFILES["smoke"].model_copy(update={TINY_SEARCH!r})\n',
    )
    project.write("test_prompts.py", "def test_prompts(hard_prompts): pass\n")
    arguments = (*MODELS, "--divergence-profile=smoke", "test_prompts.py")
    searched = project.run_forked(*arguments)
    assert searched.ret == pytest.ExitCode.OK
    replayed = project.run_forked(*arguments, "--divergence-mode=replay")
    assert replayed.ret == pytest.ExitCode.TESTS_FAILED
    assert ": test_prompts.py::test_prompts ran and measured nothing; " in said(replayed)


# What asks for nothing


@pytest.mark.parametrize(
    "arguments",
    [
        ("--divergence-mode=off",),
        ("--collect-only",),
        ("--setup-plan",),
        ("--fixtures",),
        ("--markers",),
        ("--version",),
        ("--help",),
    ],
)
def test_a_session_that_may_not_measure_is_left_alone(
    suite: Project, in_ci: None, arguments: tuple[str, ...]
) -> None:
    result = suite.run(*MODELS, *arguments, "test_unit.py")
    assert result.ret == pytest.ExitCode.OK
    assert "nothing was compared" not in shown(result)


def test_a_session_without_models_is_left_alone(suite: Project, in_ci: None) -> None:
    result = suite.run("test_unit.py")
    assert result.ret == pytest.ExitCode.OK
    assert "divergence:" not in shown(result)


def test_what_fails_anyway_keeps_its_exit_code(suite: Project) -> None:
    usage = suite.run(*MODELS, "gone.py")
    assert usage.ret == pytest.ExitCode.USAGE_ERROR
    assert "nothing was compared" not in shown(usage)
    suite.write("test_stop.py", "def test_stop(): raise KeyboardInterrupt\n")
    stopped = suite.run_forked(*MODELS, "test_stop.py")
    assert stopped.ret == pytest.ExitCode.INTERRUPTED
    assert "nothing was compared" not in shown(stopped)
    none = suite.run(*MODELS, "-k", "nothing", SUITE)
    assert none.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert f"every item of {SUITE} was deselected" in said(none)
