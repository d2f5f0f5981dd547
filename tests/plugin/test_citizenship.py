"""Beside other plugins and under pytest's own options: nothing is lost, counted twice or green."""

from __future__ import annotations

import json

import pytest

from pytest_divergence.core.cases import case_id
from pytest_divergence.core.provenance import write_provenance
from pytest_divergence.plugin.notes import note
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, nodeid, properties
from tests.plugin.made_provenance import provenance_of
from tests.plugin.test_behaviours import ID, behaviour
from tests.plugin.test_suites import SUITE

UNIT_TEST = "def test_addition(): assert 1 + 1 == 2\n"
IS_OVER = {"input": KNOT, "max_kl": 0.001}
IS_WITHIN = {"input": POEM, "max_kl": 9.0}


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with a unit test, and a suite with one case over its bound and one within."""
    project.write_suite(SUITE, IS_OVER, IS_WITHIN)
    project.write("test_unit.py", UNIT_TEST)
    return project


# Other plugins


def test_what_is_run_again_is_counted_once_as_it_ended(suite: Project) -> None:
    suite.write(
        "conftest.py",
        f"""
import pytest

@pytest.fixture(autouse=True)
def fails_once(request, seen=[]):
    if request.node.name == {case_id(POEM)!r} and not seen:
        seen.append(1)
        raise ConnectionError("try again")
""",
    )
    result = suite.run(*MODELS, "-p", "rerunfailures", "--reruns=2", SUITE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    outcomes = result.parseoutcomes()
    assert (outcomes["failed"], outcomes["passed"], outcomes["rerun"]) == (1, 1, 2 + 1)
    assert "2 stored cases replayed: 1 within the bound, 1 over it." in result.outlines


def test_an_item_over_the_time_limit_does_not_pass(suite: Project) -> None:
    suite.write(
        "conftest.py",
        "import time, pytest\n@pytest.fixture(autouse=True)\ndef slow(): time.sleep(30)\n",
    )
    case = nodeid(SUITE, POEM)
    result = suite.run(*MODELS, "-p", "pytest_timeout", "--timeout=0.2", case)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert not {"passed", "skipped"} & result.parseoutcomes().keys()


@pytest.mark.parametrize("seed", [1, 2])
def test_any_order_gives_the_same_ids_and_verdicts(suite: Project, seed: int) -> None:
    result = suite.run(*MODELS, "-p", "randomly", f"--randomly-seed={seed}", "-v", SUITE)
    verdicts = dict(line.split()[:2] for line in result.outlines if line.startswith(f"{SUITE}::"))
    assert verdicts == {nodeid(SUITE, KNOT): "FAILED", nodeid(SUITE, POEM): "PASSED"}


def test_pytest_html_shows_no_markup_of_a_prompt(suite: Project) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    completions = {"reference": hostile, "candidate": hostile}
    suite.write_suite(SUITE, {**IS_OVER, "input": hostile, "completions": completions})
    plugins = ("-p", "pytest_metadata.plugin", "-p", "pytest_html.plugin")
    result = suite.run(*MODELS, *plugins, "--html=report.html", "--self-contained-html", SUITE)
    result.assert_outcomes(failed=1)
    page = (suite.path / "report.html").read_text("utf-8")
    assert case_id(hostile) in page
    assert hostile not in page


# JUnit, and what travels between processes


@pytest.mark.slow
def test_one_of_two_workers_runs_the_cases_and_junit_carries_what_each_measured(
    suite: Project,
) -> None:
    suite.write_suite(SUITE, {**IS_OVER, "behaviour": "behaviour-knots"}, IS_WITHIN)
    made = provenance_of(suite.path / "base", suite.path / "ft", behaviours=[behaviour()])
    write_provenance(suite.path / "regress.provenance.json", made)
    own = f"def test_own(assert_bounded_kl): assert_bounded_kl({KNOT!r}, max_kl=9.0)\n"
    slow = "".join(f"def test_{n}(): time.sleep(0.1)\n" for n in range(12))
    suite.write("test_own.py", f"import time\n{own}{slow}")

    workers = ("-p", "xdist", "-n2", "-v", "--junit-xml=junit.xml")
    result = suite.run_forked(*MODELS, *workers, SUITE, "test_own.py")

    ran = [line.split() for line in result.outlines if line.startswith("[gw")]
    (busy,) = {worker for worker, *_, test in ran if SUITE in test}
    assert {worker for worker, *_, test in ran if SUITE not in test} - {busy}
    left = properties(suite.path / "junit.xml")
    assert left.pop(ID)["kind"] == "behaviour"
    left = {name: one for name, one in left.items() if one}
    assert all(0.001 < float(one.pop("kl")) < 9 for one in left.values())
    common = {"metric": "symmetric", "unit": "nats/token"}
    case = {"kind": "case", **common}
    assert left.pop("test_own").items() >= {"verdict": "passed", "bound": "9.0", **common}.items()
    assert left == {
        case_id(KNOT): {
            **case,
            "verdict": "failed",
            "bound": "0.001",
            "behaviour": "behaviour-knots",
        },
        case_id(POEM): {**case, "verdict": "passed", "bound": "9.0"},
    }


def test_a_value_that_only_inherits_from_a_plain_type_is_made_plain(project: Project) -> None:
    execnet = pytest.importorskip("execnet")

    class Name(str):
        pass

    class Number(float):
        pass

    (item,), _ = project.pytester.inline_genitems(project.pytester.makepyfile(UNIT_TEST))
    note(item, verdict=Name("failed"), kl=Number(0.25))
    assert [type(value) for _, value in item.user_properties] == [str, float]
    assert execnet.loads(execnet.dumps(item.user_properties)) == item.user_properties


# pytest's own selection


@pytest.mark.parametrize(
    ("arguments", "failed"),
    [(("-k", "knot or addition"), 1), (("-m", f"divergence(id={case_id(POEM)!r})"), 0)],
)
def test_cases_are_selected_like_any_test(
    suite: Project, arguments: tuple[str, ...], failed: int
) -> None:
    result = suite.run(*MODELS, *arguments, SUITE, "test_unit.py")
    result.assert_outcomes(passed=1, failed=failed, deselected=2 - failed)


def test_without_the_plugin_a_suite_is_just_a_file(suite: Project) -> None:
    suite.pytester.makeini("[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = ft\n")
    command = ["-p", "no:divergence", "-p", "no:cacheprovider", "."]
    result = suite.pytester.runpytest_inprocess(*command)
    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 1, "warnings": 2}
    result.stdout.fnmatch_lines(["*PytestConfigWarning: Unknown config option*divergence_model_1*"])


# pytest-xdist


def test_tests_named_after_commits_are_spread_where_no_model_is_given(project: Project) -> None:
    project.write(
        "test_commits.py",
        "import pytest, time\n"
        "@pytest.mark.parametrize('commit', [f'fix-{n:010x}' for n in range(12)])\n"
        "def test_commit(commit): time.sleep(0.1)\n",
    )
    result = project.run_forked("-p", "xdist", "-n2", "-v")
    result.assert_outcomes(passed=12)
    assert len({line.split()[0] for line in result.outlines if "PASSED" in line}) == 2


def test_a_project_in_a_folder_called_as_ours_is_collected(project: Project) -> None:
    project.write(".divergence/project/pytest.ini", "[pytest]\n")
    project.write(".divergence/project/tests/test_unit.py", UNIT_TEST)
    project.run(".divergence/project").assert_outcomes(passed=1)


def test_a_killed_worker_is_never_green(suite: Project) -> None:
    suite.write_suite(SUITE, IS_WITHIN, {**IS_WITHIN, "input": "Another prompt."})
    suite.write(
        "conftest.py",
        f"""
import os, pytest

@pytest.fixture(autouse=True)
def killed(request):
    if request.node.name == {case_id(POEM)!r}:
        os._exit(1)
""",
    )
    result = suite.run_forked(*MODELS, "-p", "xdist", "-n2", SUITE, "test_unit.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines([f"worker 'gw*' crashed while running '{nodeid(SUITE, POEM)}'"])


# Never green on nothing


def test_a_skip_without_models_shows_however_quiet(project: Project) -> None:
    project.write("test_cases.py", "def test_case(divergence_case): pass\n")
    result = project.run("-qqq", "test_cases.py")
    assert (
        "divergence: divergence_case needs two models; give --model-1 and --model-2 "
        "(1 test skipped)" in result.outlines
    )


def test_a_filter_that_matches_nothing_is_an_error(suite: Project) -> None:
    filters = ("behaviour='gone'", "id='gone-0123456789'", "limit=0")
    tests = (
        f"@pytest.mark.divergence({one})\ndef test_{number}(divergence_case): pass\n"
        for number, one in enumerate(filters)
    )
    suite.write("test_cases.py", "\n".join(["import pytest", *tests]))
    result = suite.run(*MODELS, nodeid(SUITE, POEM), "test_cases.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, errors=3)
    start = "no case of this session matches this test's marker, divergence"
    result.stdout.fnmatch_lines([f"{start}({one}), so *" for one in filters])


WRONG_MARKERS = {
    "max_KL=1e-9": "(max_KL=1e-09) has an unknown argument; it takes max_kl=, *",
    "1e-9": "(1e-09) has an argument without a name; it takes max_kl=, *",
    "max_kl='0.1'": "(max_kl='0.1') must be a positive number of nats per token",
    "limit=-1": "(limit=-1) must be a number of cases, 0 or more",
}


def test_a_wrong_marker_is_refused_by_name(suite: Project) -> None:
    tests = [
        f"@pytest.mark.divergence({one})\n"
        f"def test_{number}(assert_bounded_kl): assert_bounded_kl({KNOT!r}, max_kl=9.0)\n"
        for number, one in enumerate(WRONG_MARKERS)
    ]
    suite.write("test_it.py", "\n".join(["import pytest", *tests]))
    result = suite.run(*MODELS, nodeid(SUITE, POEM), "test_it.py")
    result.assert_outcomes(passed=1, failed=len(tests))
    faults = enumerate(WRONG_MARKERS.values())
    result.stdout.fnmatch_lines(
        [f"test_it.py::test_{number}: the marker divergence{fault}" for number, fault in faults]
    )

    # of a test of cases already its collection says so
    case = "@pytest.mark.divergence(behavior='x')\ndef test_it(divergence_case): pass\n"
    suite.write("test_it.py", f"import pytest\n{case}")
    result = suite.run(*MODELS, nodeid(SUITE, POEM), "test_it.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: test_it.py::test_it: the marker divergence(behavior='x') has an unknown *"]
    )


# Listing


def test_listing_a_suite_imports_no_models(suite: Project) -> None:
    suite.write(
        "conftest.py",
        "import json, sys\n"
        "def pytest_unconfigure():\n"
        "    with open('modules.json', 'w') as file: json.dump(sorted(sys.modules), file)\n",
    )
    result = suite.run_fresh(*MODELS, "--collect-only", "-q", SUITE)
    assert result.outlines[:2] == [nodeid(SUITE, KNOT), nodeid(SUITE, POEM)]
    loaded = set(json.loads((suite.path / "modules.json").read_text("utf-8")))
    assert not loaded & {"torch", "transformers", "numpy", "scipy", "peft"}
