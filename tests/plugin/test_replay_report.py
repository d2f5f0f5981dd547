"""`--divergence-report-dir` where suites are replayed: a report like a search's, kept in CI."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pytest_divergence.core.cases import case_id
from pytest_divergence.core.report import Report, load_report
from pytest_divergence.core.suites import read_suite, write_stored
from tests.plugin.conftest import CONTROLS, KNOT, MODELS, POEM, Project, block, shown
from tests.plugin.test_behaviours import ID, behaviour, write

NIGHTLY = Path(__file__).parents[2] / "conftest_templates/nightly_discovery/conftest.py"
SUITE = "release.divergence.jsonl"
REPORTED = (SUITE, "-W", "default", "--divergence-report-dir=out")
REPLAY = (*MODELS, *REPORTED)
OTHER_CANDIDATE = ("--model-1=base", "--model-2=adapter", *REPORTED)


@pytest.fixture
def suite(project: Project) -> Project:
    """A suite of one case within its bound and one over it."""
    rows = [{"input": KNOT, "max_kl": 9.0}, {"input": POEM, "max_kl": 0.001}]
    project.write_suite(SUITE, *rows)
    project.run(*MODELS, SUITE, "--divergence-fill").assert_outcomes(passed=2)
    return project


def written(project: Project) -> tuple[Path, Report]:
    (folder,) = project.path.glob("out/2*")
    assert {"report.html", "report.json", "summary.md"} == {one.name for one in folder.iterdir()}
    return folder, load_report(folder / "report.json")


def test_a_replay_leaves_its_report_where_it_is_asked_to(suite: Project) -> None:
    before = set(suite.path.rglob("*"))
    suite.run(*MODELS, SUITE, "-W", "default").assert_outcomes(failed=1, passed=2, warnings=1)
    assert set(suite.path.rglob("*")) == before, "it was not asked to"

    result = suite.run(*REPLAY)

    result.assert_outcomes(failed=1, passed=2, warnings=1)
    folder, report = written(suite)
    result.stdout.fnmatch_lines([f"report: out/{folder.name}/report.html"])
    assert (report.run.mode, report.run.status) == ("replay", "complete")
    assert (report.pair.reference, report.pair.candidate) == ("base", "ft")
    assert (report.pair.dtype, report.pair.device) == ("float32", "cpu")
    verdicts = {one.id: one.verdict for one in report.cases}
    assert verdicts == {case_id(KNOT): "passed", case_id(POEM): "failed"}
    failed = next(one for one in report.cases if one.verdict == "failed")
    assert failed.kl is not None
    assert failed.kl.value > 0.001
    assert failed.completions is not None
    summary = (folder / "summary.md").read_text("utf-8")
    assert "**1 of 2 cases shows more divergence than the bound.**" in summary
    assert re.search("- effort: 2 prompts scored, [0-9.]+ s\n", summary)
    page = (folder / "report.html").read_text("utf-8")
    assert f"pytest {SUITE}::{case_id(POEM)} --model-1 base --model-2 ft" in page


def test_a_report_shows_the_command_that_the_failure_shows(suite: Project) -> None:
    suite.pytester.makeini("[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = ft\n")
    given = ("--divergence-dtype=float32", "--divergence-seed=3")
    result = suite.run(SUITE, "--divergence-report-dir=out", *given)

    folder, _ = written(suite)
    (command,) = re.findall("Run it again: `(.*)`", (folder / "summary.md").read_text("utf-8"))
    case = f"{SUITE}::{case_id(POEM)}"
    assert command == f"pytest {case} --divergence-dtype float32 --divergence-seed 3"
    rerun = " ".join(block(result, "  rerun:", 4)).replace(" \\", "")
    assert command in " ".join(rerun.split())


def test_a_redacted_session_shows_neither_its_system_prompt_nor_a_text(project: Project) -> None:
    project.write_suite(SUITE, {"input": POEM, "max_kl": 0.001})
    prompt = "--divergence-system-prompt=A secret."
    project.run(*MODELS, SUITE, "--divergence-fill", prompt)
    result = project.run(*REPLAY, prompt, "--divergence-redact")

    result.assert_outcomes(failed=1, passed=1, warnings=1)
    folder, _ = written(project)
    for text in (shown(result), *(file.read_text("utf-8") for file in folder.iterdir())):
        assert "A secret" not in text
    for file in folder.iterdir():
        assert POEM not in file.read_text("utf-8")
    assert "--divergence-system-prompt '[redacted]'" in shown(result)


def test_another_candidate_is_reported_as_it_was_measured(suite: Project) -> None:
    suite.run(*OTHER_CANDIDATE, "--divergence-max-kl=5")

    _, report = written(suite)
    stored = json.loads((suite.path / SUITE).read_text("utf-8").splitlines()[0])
    fresh = next(one for one in report.cases if one.id == stored["id"])
    assert report.pair.candidate == "adapter"
    assert (report.pair.dtype, report.pair.device) == ("float32", "cpu")
    assert fresh.kl is not None
    assert fresh.kl.estimator == "stored"
    assert fresh.kl.value != stored["kl"]["value"]
    assert fresh.completions is None  # its own were not asked for, and the suite's are another's


def test_a_case_that_could_not_be_measured_is_told(suite: Project) -> None:
    stored = read_suite(suite.path / SUITE)
    assert stored.provenance is not None
    other = [one.model_copy(update={"prompt_sha256": "0" * 64}) for one in stored.tokens.values()]
    write_stored(suite.path / SUITE, stored.suite.rows, other, stored.provenance)

    result = suite.run(*OTHER_CANDIDATE, "-k", "knot")

    result.assert_outcomes(errors=1, deselected=2)
    _, report = written(suite)
    assert [(one.id, one.verdict) for one in report.cases] == [(case_id(KNOT), "error")]
    assert "could not be measured" in report.cases[0].verdict_reason


# Items that are not of one case


def test_a_shift_over_its_limit_leads_the_report(project: Project) -> None:
    controls = [{"input": text, "tags": ["control"]} for text in CONTROLS]
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 9.0}, *controls)
    project.run(*MODELS, SUITE, "--divergence-fill").assert_outcomes(passed=1)

    result = project.run(*REPLAY, "--divergence-max-shift=0.000001")

    result.assert_outcomes(failed=1, passed=2, warnings=1)
    folder, report = written(project)
    assert [(check.name, check.verdict) for check in report.checks] == [
        (f"{SUITE}::aggregate", "inconclusive"),
        (f"{SUITE}::shift", "failed"),
    ]
    assert " > max_shift 0.000001" in report.checks[1].sentence
    for name in ("summary.md", "report.html"):
        text = (folder / name).read_text("utf-8")
        assert report.checks[0].sentence[:40] in text
        assert "mean KL of 4 ordinary prompts 0." in text
    summary = (folder / "summary.md").read_text("utf-8")
    assert "**1 item failed: shift.** No case over its bound: 1 of 1 case within it." in summary
    page = (folder / "report.html").read_text("utf-8")
    assert '<div class="lede bad">\n<p class="verdict">1 item failed: shift.</p>' in page


def test_a_behaviour_that_could_not_be_measured_leads_the_report(project: Project) -> None:
    write(project, behaviour(telling=[]))

    project.run(*REPLAY).assert_outcomes(passed=1, errors=1)

    folder, report = written(project)
    assert [(check.name, check.verdict) for check in report.checks] == [(f"{SUITE}::{ID}", "error")]
    assert (
        f"**1 item could not be measured: {ID}. It does not count as passed.** No case over"
    ) in (folder / "summary.md").read_text("utf-8")


def test_an_item_that_a_fixture_broke_leads_the_report(suite: Project) -> None:
    suite.write(
        "conftest.py",
        "import pytest\n@pytest.fixture(autouse=True)\ndef broken(request):\n"
        f"    assert request.node.name != {case_id(KNOT)!r}\n",
    )

    suite.run(*REPLAY).assert_outcomes(failed=1, passed=1, errors=1, warnings=1)

    _, report = written(suite)
    broken = [check.name for check in report.checks if check.verdict == "error"]
    assert (report.run.status, broken) == ("complete", [f"{SUITE}::{case_id(KNOT)}"])


# Sessions that end early


def test_a_session_that_stops_at_the_first_failure_is_incomplete(suite: Project) -> None:
    result = suite.run(*REPLAY, "--divergence-inconclusive=fail", "-x")

    result.assert_outcomes(failed=1)
    folder, report = written(suite)
    assert (report.run.status, report.run.reason) == ("incomplete", "2 of 3 items did not run")
    assert [check.verdict for check in report.checks] == ["failed"]
    assert report.checks[0].sentence.startswith("inconclusive: forward KL is ")
    summary = (folder / "summary.md").read_text("utf-8")
    assert "**The run stopped early" in summary
    assert "1 item failed: aggregate." in summary


@pytest.mark.slow
@pytest.mark.parametrize("restarts", ["0", "1"])
def test_what_a_killed_worker_had_sent_is_kept(suite: Project, restarts: str) -> None:
    suite.write(
        "conftest.py",
        "import os, pytest\n@pytest.fixture(autouse=True)\ndef killed(request):\n"
        f"    if request.node.name == {case_id(KNOT)!r}:\n        os._exit(1)\n",
    )
    workers = ("-p", "xdist", "-n1", f"--max-worker-restart={restarts}")

    suite.run_forked(*REPLAY, *workers)

    _, report = written(suite)
    assert [(check.name, check.verdict) for check in report.checks] == [
        (f"{SUITE}::aggregate", "inconclusive"),
        (f"{SUITE}::{case_id(KNOT)}", "error"),
    ]
    is_whole = restarts == "1"  # then another worker runs the last item
    assert report.run.status == ("complete" if is_whole else "incomplete")
    assert report.verdict_counts == ({"failed": 1} if is_whole else {})


def test_a_worker_killed_before_its_first_result_leaves_a_report(suite: Project) -> None:
    suite.write("conftest.py", "import os\ndef pytest_runtest_setup():\n    os._exit(1)\n")

    result = suite.run_forked(*REPLAY, "-p", "xdist", "-n1", "--max-worker-restart=0")

    assert "Traceback" not in shown(result)
    _, report = written(suite)
    assert [(check.name, check.verdict) for check in report.checks] == [
        (f"{SUITE}::aggregate", "error")
    ]
    assert (report.run.status, report.effort.seconds) == ("incomplete", 0.0)


# Workers


def test_workers_send_what_they_measured(suite: Project) -> None:
    result = suite.run_forked(*REPLAY, "-p", "xdist", "-n2")

    assert "INTERNALERROR" not in shown(result)
    _, report = written(suite)
    assert report.verdict_counts == {"failed": 1, "passed": 1}
    assert report.pair.device == "cpu"
    assert 0 < report.effort.seconds < 600


def test_the_report_hook_sees_the_replay_which_is_no_search_to_propose(suite: Project) -> None:
    suite.write("nightly.py", NIGHTLY.read_text("utf-8"))
    suite.write(
        "conftest.py",
        "import nightly\ndef pytest_divergence_report(config, report):\n"
        "    print('seen', report.verdict_counts)\n"
        "    nightly.pytest_divergence_report(config, report)\n",
    )

    result = suite.run(*REPLAY, "-s")

    result.stdout.fnmatch_lines(["seen {*'failed': 1*}"])
    assert not (suite.path / "nightly.md").exists()


def test_a_folder_that_cannot_be_made_is_told_and_changes_no_result(suite: Project) -> None:
    suite.write("out", "a file is in the way")

    result = suite.run(*REPLAY)

    result.assert_outcomes(failed=1, passed=2, warnings=1)
    result.stdout.fnmatch_lines(["the report was not written: cannot make the folder *out*"])


def test_a_conftests_own_models_are_not_reported_under_other_names(project: Project) -> None:
    project.write(
        "own/conftest.py",
        "import pytest\nfrom pytest_divergence import load_model_pair\n"
        "@pytest.fixture(scope='session')\ndef model_pair(pytestconfig):\n"
        "    root = pytestconfig.rootpath\n"
        "    return load_model_pair(str(root / 'ft'), str(root / 'base'))\n",
    )
    project.write_suite("own/own.divergence.jsonl", {"input": KNOT, "max_kl": 9.0})
    project.write_suite(SUITE, {"input": POEM, "max_kl": 9.0})

    result = project.run(*MODELS, "own/own.divergence.jsonl", SUITE, "--divergence-report-dir=out")

    result.assert_outcomes(passed=2)
    assert (
        "own/own.divergence.jsonl is in no report: a fixture of yours gives its models, which have "
        "no names"
    ) in result.outlines
    _, report = written(project)
    assert [one.id for one in report.cases] == [case_id(POEM)]


def test_a_report_of_several_suites_names_those_of_each_case(project: Project) -> None:
    over = {"input": POEM, "max_kl": 0.001}
    project.write_suite("a.divergence.jsonl", over)
    project.write_suite("b.divergence.jsonl", over, {"input": KNOT, "max_kl": 0.001})
    suites = ("a.divergence.jsonl", "b.divergence.jsonl")

    project.run(*MODELS, *suites, "--divergence-report-dir=out").assert_outcomes(failed=3)

    folder, _ = written(project)
    summary = (folder / "summary.md").read_text("utf-8")
    models, (a, b) = "--model-1 base --model-2 ft", (f"{one}::{case_id(POEM)}" for one in suites)
    assert set(re.findall("Run it again: `(.*)`", summary)) == {
        f"pytest b.divergence.jsonl::{case_id(KNOT)} {models}",
        f"pytest {a} {models} {b}",
    }


def test_each_pair_has_a_report(suite: Project) -> None:
    other = "other.divergence.jsonl"
    for path in list(suite.path.glob("release.*")):
        suite.write(path.name.replace("release", "other"), path.read_text("utf-8"))
    suite.write(
        "pytest.ini",
        f"[pytest]\ndivergence_pairs =\n    {SUITE} = base ft\n    {other} = base adapter\n",
    )

    result = suite.run(SUITE, other, "-W", "default", "--divergence-report-dir=out", "-k", "knot")

    reports = [load_report(one) for one in sorted(suite.path.glob("out/2*/report.json"))]
    assert {one.pair.candidate for one in reports} == {"ft", "adapter"}, shown(result)
