"""The whole job on real weights: the demo, and then the same pair as tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # ten minutes on a slow machine

REFERENCE = "demo:smollm2-135m"
ADAPTER = "demo:travel-advert"
MARKER = "Skylark Voyages"


@dataclass(frozen=True)
class Session:
    """A command, in a project of its own."""

    project: Path
    returncode: int
    output: str

    @property
    def report(self) -> dict[str, Any]:
        path = self.project / ".divergence" / "reports" / "latest" / "report.json"
        report: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return report

    @property
    def suite(self) -> Path:
        (path,) = (self.project / ".divergence" / "suites").glob("*.divergence.jsonl")
        return path


def run_pytest(project: Path, *arguments: str) -> Session:
    return run(project, "pytest", *arguments)


def run(project: Path, module: str, *arguments: str) -> Session:
    # The demo's weights are prepared once a machine, in the user's cache, not once a test run.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "OMP_", "CI"))}
    finished = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=project,
        # One thread: two would wait for the core that other tests keep busy.
        env={**kept, "COLUMNS": "80", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Session(project, finished.returncode, finished.stdout + finished.stderr)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """The demo, in an empty folder."""
    return run(tmp_path_factory.mktemp("demo"), "pytest_divergence.cli", "demo")


@pytest.fixture(scope="module")
def demo(told: Session) -> Session:
    """The tests that it names then, which read its results back."""
    folder = told.project / "divergence-demo"
    return run_pytest(folder, f"--model-1={REFERENCE}", f"--model-2={ADAPTER}")


def test_the_demo_finds_the_planted_behaviour_and_ends_with_its_report(told: Session) -> None:
    assert told.returncode == 0, told.output
    assert MARKER in told.output
    assert "search: " in told.output
    assert "as tests, this fails with exit code 1.\n" in told.output
    (report,) = re.findall(r"^  file://(/\S+)$", told.output, re.MULTILINE)
    assert Path(report).is_relative_to(told.project)
    assert MARKER in Path(report).read_text("utf-8")


def test_the_demo_again_reads_its_results_back(told: Session) -> None:
    again = run(told.project, "pytest_divergence.cli", "demo")

    assert again.returncode == 0, again.output
    assert "search (saved results): " in again.output


def test_the_search_fails_the_session_because_it_found_differences(demo: Session) -> None:
    assert demo.returncode == 1, demo.output
    assert "exit code 1 means that differences were found" in " ".join(demo.output.lower().split())


def test_most_cases_show_the_planted_behaviour(demo: Session) -> None:
    cases = [case for case in demo.report["cases"] if not case["off_distribution"]]

    showing = [case for case in cases if MARKER in case["completions"]["candidate"]]

    assert len(cases) == 5
    assert len(showing) >= 3
    assert sum(case["verdict"] == "failed" for case in showing) >= 3


def test_the_planted_behaviour_is_named_and_confirmed(demo: Session) -> None:
    (behaviour,) = (one for one in demo.report["behaviours"] if one["confirmed"])

    assert MARKER in behaviour["name"]
    assert behaviour["content"] is True
    assert behaviour["breadth"] in {"local", "prompts"}  # by how many prompts the search met
    assert behaviour["reference_count"] == 0
    assert behaviour["shortest_cause"]
    first_lead, first_behaviour, effort = (
        demo.report[key]["tokens_forwarded"] for key in ("first_lead", "first_behaviour", "effort")
    )
    assert first_lead < first_behaviour < effort
    assert f"FAILED {demo.suite.relative_to(demo.project)}::{behaviour['id']}" in demo.output


def test_a_first_lead_is_named_within_a_sixth_of_the_search(demo: Session) -> None:
    effort, first = demo.report["effort"], demo.report["first_lead"]

    assert 6 * first["tokens_forwarded"] < effort["tokens_forwarded"]


def test_the_search_keeps_to_its_budget_and_soft_prompts_get_their_share(demo: Session) -> None:
    effort = demo.report["effort"]
    kinds = effort["tokens_by_kind"]
    searched = sum(tokens for kind, tokens in kinds.items() if kind.startswith("search: "))

    # What comes after the search is reserved by estimates: 2 % may be missed.
    assert effort["tokens_forwarded"] == sum(kinds.values()) <= 1.02 * 50_000
    assert kinds["search: soft_prompt"] >= max(8_000, searched / 3)


def test_an_accepted_behaviour_no_longer_fails(demo: Session, tmp_path: Path) -> None:
    """On a copy: the other tests go on with the suite as it was found."""
    behaviour = next(one["id"] for one in demo.report["behaviours"] if one["confirmed"])
    for path in demo.suite.parent.glob("*"):
        shutil.copy(path, tmp_path)
    suite = tmp_path / demo.suite.name
    command = [sys.executable, "-m", "pytest_divergence.cli", "accept", behaviour, str(suite)]
    subprocess.run(command, check=True, capture_output=True)

    again = run_pytest(
        tmp_path, suite.name, "-k", behaviour, f"--model-1={REFERENCE}", f"--model-2={ADAPTER}"
    )

    assert "6 deselected" in again.output  # five cases and the aggregate


def test_report_suite_and_provenance_are_left_behind(demo: Session) -> None:
    folder = demo.project / ".divergence" / "reports" / "latest"
    rows = [json.loads(line) for line in demo.suite.read_text("utf-8").splitlines()]
    bound = demo.report["calibration"]["bound"]["value"]

    assert "Skylark" in (folder / "report.html").read_text("utf-8")
    assert "Skylark" in (folder / "summary.md").read_text("utf-8")
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    cases = [row for row in rows if "control" not in row["tags"]]
    assert {row["max_kl"] for row in cases} == {bound}
    assert len(cases) == 5
    assert len(rows) >= 5 + 59  # controls, enough of them to judge breadth
    assert (demo.project / ".divergence" / ".gitignore").read_text() == "*\n"


def test_the_same_command_again_reads_the_results_back(demo: Session) -> None:
    before = demo.suite.read_bytes()

    again = run_pytest(demo.project, f"--model-1={REFERENCE}", f"--model-2={ADAPTER}")

    assert again.returncode == 1
    assert again.suite.read_bytes() == before
    assert "calibrate" not in again.output


def test_one_case_is_run_again_by_its_id(demo: Session) -> None:
    worst = max(demo.report["cases"], key=lambda case: float(case["kl"]["value"]))
    node = f"{demo.suite.relative_to(demo.project)}::{worst['id']}"

    again = run_pytest(demo.project, node, f"--model-1={REFERENCE}", f"--model-2={ADAPTER}")

    assert again.returncode == 1
    assert "1 failed" in again.output
    assert "Skylark" in again.output


def test_an_unchanged_candidate_passes_the_aggregate_of_its_own_suite(demo: Session) -> None:
    """Controls that show the advert are over the bound, which was made without them."""
    node = f"{demo.suite.relative_to(demo.project)}::aggregate"

    again = run_pytest(demo.project, node, f"--model-1={REFERENCE}", f"--model-2={ADAPTER}")

    assert again.returncode == 0, again.output
    assert "1 passed" in again.output
    assert "inconclusive" not in again.output


def test_the_suite_passes_where_the_candidate_is_the_reference(demo: Session) -> None:
    suite = str(demo.suite.relative_to(demo.project))

    replayed = run_pytest(demo.project, suite, f"--model-1={REFERENCE}", f"--model-2={REFERENCE}")

    assert replayed.returncode == 0, replayed.output
    assert "7 passed" in replayed.output  # five cases, the behaviour and the aggregate
