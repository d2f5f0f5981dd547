"""Beside other plugins and under pytest's own options: nothing is lost, counted twice or green."""

from __future__ import annotations

import json

import pytest

from pytest_divergence.core.cases import case_id
from pytest_divergence.plugin.notes import note
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, nodeid, properties, shown
from tests.plugin.test_suites import SUITE, write_matching_provenance

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


def test_a_failure_that_is_run_again_is_counted_once(suite: Project) -> None:
    result = suite.run(*MODELS, "-p", "rerunfailures", "--reruns=2", SUITE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    outcomes = result.parseoutcomes()
    assert (outcomes["failed"], outcomes["passed"], outcomes["rerun"]) == (1, 1, 2)
    assert "2 stored cases replayed: 1 within the bound, 1 over it." in result.outlines


def test_a_case_that_passes_when_run_again_is_within_its_bound(suite: Project) -> None:
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
    result = suite.run(*MODELS, "-p", "rerunfailures", "--reruns=1", nodeid(SUITE, POEM))
    assert result.ret == pytest.ExitCode.OK
    assert "1 stored case replayed: 1 within the bound." in result.outlines


def test_an_item_over_the_time_limit_does_not_pass(suite: Project) -> None:
    suite.write(
        "conftest.py",
        "import time, pytest\n@pytest.fixture(autouse=True)\ndef slow(): time.sleep(30)\n",
    )
    case = nodeid(SUITE, POEM)
    result = suite.run(*MODELS, "-p", "pytest_timeout", "--timeout=0.2", case)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert not {"passed", "skipped"} & result.parseoutcomes().keys()


@pytest.mark.parametrize("seed", [1, 2, 3])
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


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n2")])
def test_junit_carries_what_each_item_measured(suite: Project, workers: tuple[str, ...]) -> None:
    suite.write_suite(SUITE, {**IS_OVER, "behaviour": "behaviour-knots"}, IS_WITHIN)
    run = suite.run_forked if workers else suite.run
    run(*MODELS, *workers, SUITE, "--junit-xml=junit.xml")
    common = {"kind": "case", "metric": "symmetric", "unit": "nats/token"}
    left = properties(suite.path / "junit.xml")
    assert all(0.001 < float(one.pop("kl")) < 9 for one in left.values())
    assert left == {
        case_id(KNOT): {
            **common,
            "verdict": "failed",
            "bound": "0.001",
            "behaviour": "behaviour-knots",
        },
        case_id(POEM): {**common, "verdict": "passed", "bound": "9.0"},
    }


SENDS = """
import json
import execnet
import pytest

sent = {}

@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    if report.when == "call" or report.failed:
        execnet.dumps(report.user_properties)
        sent[report.nodeid] = {name: type(value).__name__ for name, value in report.user_properties}

def pytest_unconfigure():
    with open("sent.json", "w") as file:
        json.dump(sent, file)
"""


def test_items_of_every_kind_leave_what_xdist_can_send(project: Project) -> None:
    write_matching_provenance(project)
    path = project.path / "regress.provenance.json"
    provenance = json.loads(path.read_text("utf-8"))
    provenance["behaviours"] = [BEHAVIOUR]
    path.write_text(json.dumps(provenance), "utf-8")
    project.write_suite(SUITE, IS_OVER)
    project.write("conftest.py", SENDS)
    project.write(
        "test_own.py",
        f"def test_own(assert_bounded_kl): assert_bounded_kl({KNOT!r}, max_kl=9.0)\n",
    )
    project.run(*MODELS, SUITE, "test_own.py")
    sent = json.loads((project.path / "sent.json").read_text("utf-8"))
    assert set(sent) == {
        nodeid(SUITE, KNOT),
        f"{SUITE}::{BEHAVIOUR['id']}",
        "test_own.py::test_own",
    }
    assert {kind for left in sent.values() for kind in left.values()} == {"str", "float"}
    assert all("divergence_verdict" in left for left in sent.values())


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


BEHAVIOUR = {
    "id": "behaviour-knots-0123456789",
    "name": "ties knots",
    "content": True,
    "motifs": ["knots"],
    "confirmed": True,
    "telling": {
        "prompt": KNOT,
        "text": "knots",
        "token_ids": [40, 41],
        "log_ratio": 5.0,
    },
}


# pytest's own selection


@pytest.mark.parametrize(
    ("arguments", "passed", "failed"),
    [
        (("-k", "poem"), 1, 0),
        (("-k", "knot or addition"), 1, 1),
        (("-m", f"divergence(id={case_id(POEM)!r})"), 1, 0),
        (("--deselect", nodeid(SUITE, KNOT)), 2, 0),
        ((nodeid(SUITE, POEM),), 1, 0),
        ((nodeid(SUITE, POEM), "test_unit.py"), 2, 0),
    ],
)
def test_cases_are_selected_like_any_test(
    suite: Project, arguments: tuple[str, ...], passed: int, failed: int
) -> None:
    paths = () if "::" in arguments[0] else (SUITE, "test_unit.py")
    result = suite.run(*MODELS, *arguments, *paths)
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if failed else pytest.ExitCode.OK)
    counts = result.parseoutcomes()
    assert (counts.get("passed", 0), counts.get("failed", 0)) == (passed, failed)


def test_the_last_failures_are_found_again(suite: Project) -> None:
    def run(*arguments: str) -> pytest.RunResult:
        return suite.pytester.runpytest_inprocess("-p", "divergence", *MODELS, *arguments, ".")

    run()
    result = run("--lf")
    assert result.parseoutcomes()["failed"] == 1
    assert "passed" not in result.parseoutcomes()


def test_without_the_plugin_a_suite_is_just_a_file(suite: Project) -> None:
    suite.pytester.makeini("[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = ft\n")
    command = ["-p", "no:divergence", "-p", "no:cacheprovider", "."]
    result = suite.pytester.runpytest_inprocess(*command)
    assert result.ret == pytest.ExitCode.OK
    assert result.parseoutcomes() == {"passed": 1, "warnings": 2}
    result.stdout.fnmatch_lines(["*PytestConfigWarning: Unknown config option*divergence_model_1*"])


def test_conftests_of_folders_reach_their_own_suite_only(suite: Project) -> None:
    suite.write_suite(f"here/{SUITE}", IS_WITHIN)
    suite.write_suite(f"there/{SUITE}", IS_WITHIN)
    suite.write(
        "here/conftest.py",
        "import pytest\n@pytest.fixture(autouse=True)\ndef f(): print('in here')\n",
    )
    result = suite.run(*MODELS, "-rA", "here", "there")
    result.assert_outcomes(passed=2)
    assert result.outlines.count("in here") == 1


# pytest-xdist


def test_two_workers_see_the_same_ids_and_one_runs_the_cases(suite: Project) -> None:
    rows = [{"input": f"What is {n} + {n}?", "max_kl": 9.0} for n in range(6)]
    suite.write_suite(SUITE, *rows)
    slow = "".join(f"def test_{n}(): time.sleep(0.1)\n" for n in range(12))
    suite.write("test_unit.py", f"import time\n{slow}")
    arguments = ("-p", "xdist", "-n2", "-v", SUITE, "test_unit.py")
    result = suite.run_forked(*MODELS, *arguments)
    result.assert_outcomes(passed=18)
    assert "Different tests were collected" not in shown(result)
    ran = [line.split() for line in result.outlines if "PASSED" in line]
    (busy,) = {worker for worker, *_, test in ran if SUITE in test}
    assert {worker for worker, *_, test in ran if SUITE not in test} - {busy}


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


def test_one_of_two_suites_without_items_is_named(suite: Project) -> None:
    suite.write_suite("other.divergence.jsonl", {**IS_WITHIN, "input": "Another prompt."})
    result = suite.run(*MODELS, "-q", "-k", "another", ".")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.outlines[-1] == (
        f"divergence: every item of {SUITE} was deselected, so nothing in it was compared; "
        "name only the suites that you mean"
    )


def test_listing_a_selection_is_no_test_of_it(suite: Project) -> None:
    result = suite.run(*MODELS, "-k", "addition", "--collect-only", ".")
    assert result.ret == pytest.ExitCode.OK


def test_switched_off_a_suite_may_be_left_out(suite: Project) -> None:
    result = suite.run(*MODELS, "--divergence-mode=off", "-k", "addition", ".")
    assert result.ret == pytest.ExitCode.OK


def test_a_suite_that_is_not_there_is_pytests_usage_error(suite: Project) -> None:
    result = suite.run(*MODELS, "gone.divergence.jsonl", "test_unit.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "gone.divergence.jsonl" in result.errlines[0]


@pytest.mark.parametrize("quiet", ["-q", "-qq", "-qqq"])
def test_a_skip_without_models_shows_however_quiet(project: Project, quiet: str) -> None:
    project.write("test_cases.py", "def test_case(divergence_case): pass\n")
    result = project.run(quiet, "test_cases.py")
    assert (
        "divergence: divergence_case needs two models; give --model-1 and --model-2 "
        "(1 test skipped)" in result.outlines
    )


@pytest.mark.parametrize("filters", ["behaviour='gone'", "id='gone-0123456789'", "limit=0"])
def test_a_filter_that_matches_nothing_is_an_error(suite: Project, filters: str) -> None:
    suite.write(
        "test_cases.py",
        "import pytest\n"
        f"@pytest.mark.divergence({filters})\n"
        "def test_case(divergence_case): pass\n",
    )
    result = suite.run(*MODELS, nodeid(SUITE, POEM), "test_cases.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [f"no case of this session matches this test's marker, divergence({filters}), so *"]
    )


WRONG_MARKERS = {
    "max_KL=1e-9": "divergence(max_KL=1e-09) has an unknown argument; it takes max_kl=, *",
    "behavior='x'": "divergence(behavior='x') has an unknown argument; it takes max_kl=, *",
    "1e-9": "divergence(1e-09) has an argument without a name; it takes max_kl=, *",
    "max_kl='0.1'": "divergence(max_kl='0.1') must be a positive number of nats per token",
    "limit=-1": "divergence(limit=-1) must be a number of cases, 0 or more",
}


@pytest.mark.parametrize(("given", "fault"), WRONG_MARKERS.items())
@pytest.mark.parametrize("fixture", ["divergence_case", "assert_bounded_kl"])
def test_a_wrong_marker_is_refused_by_name(
    suite: Project, given: str, fault: str, fixture: str
) -> None:
    call = "" if fixture == "divergence_case" else f"assert_bounded_kl({KNOT!r}, max_kl=9.0)"
    suite.write(
        "test_it.py",
        f"import pytest\n@pytest.mark.divergence({given})\n"
        f"def test_it({fixture}): {call or 'pass'}\n",
    )

    result = suite.run(*MODELS, nodeid(SUITE, POEM), "test_it.py")

    if fixture == "divergence_case":
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: test_it.py::test_it: the marker {fault}"])
    else:
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines([f"test_it.py::test_it: the marker {fault}"])


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
