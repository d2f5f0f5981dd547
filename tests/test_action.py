"""`action.yml`: what GitHub reads, what its steps run, and the one comment that they leave."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from pytest_divergence.cli import main
from tests.plugin.conftest import KNOT, MODELS, Project, project  # noqa: F401  # a fixture

ROOT = Path(__file__).parents[1]
ACTION = ROOT / "action.yml"
COMMENT = ROOT / ".github" / "living_comment.py"
SUITE = "tests/release.divergence.jsonl"


def validated(schema: str, *files: Path) -> str:
    """What a validator with GitHub's own schemas says of files."""
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_github_reads_the_action_and_every_workflow(project: Project) -> None:  # noqa: F811
    assert main(["init", *MODELS, "--yes"]) == 0
    made = project.path / ".github/workflows/divergence.yml"
    templates = (ROOT / "conftest_templates").glob("*/.github/workflows/*.yml")
    ours = (ROOT / ".github/workflows").glob("*.yml")
    (shown,) = re.findall("```yaml\n(.*?)```", (ROOT / "docs/how-to/ci.md").read_text(), re.DOTALL)
    written = project.write("shown.yml", shown)

    assert validated("github-actions", ACTION) == "ok -- validation done\n"
    assert (
        validated("github-workflows", made, written, *templates, *ours) == "ok -- validation done\n"
    )


def test_no_input_becomes_a_part_of_a_script() -> None:
    """An input is a value in the environment: whatever it holds, no shell runs it."""
    steps = yaml.safe_load(ACTION.read_text("utf-8"))["runs"]["steps"]

    assert [step.get("name", step.get("uses")) for step in steps if "id" not in step] == [
        "actions/setup-python@v5",
        "actions/cache@v4",
        "install",
        "actions/upload-artifact@v4",
        "comment",
    ]
    assert not [step["run"] for step in steps if "${{" in step.get("run", "")]
    assert ["TOKEN" in step.get("env", {}) for step in steps].count(True) == 1


@pytest.fixture
def replayed(project: Project) -> Path:  # noqa: F811
    """The report of the command that the action's step gives, with a step that fails."""
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 99.0})
    noted = 'printf "%s\\n" "$@" > words; mkdir -p "$RUNNER_TEMP/pytest-divergence/latest"; exit 1'
    project.write("bin/pytest-divergence", f"#!/bin/sh\n{noted}\n").chmod(0o755)
    outputs = project.write("outputs", "")
    steps = yaml.safe_load(ACTION.read_text("utf-8"))["runs"]["steps"]
    (script,) = (step["run"] for step in steps if step.get("id") == "replay")
    folders = [project.path / "bin", Path(sys.executable).parent, os.environ["PATH"]]
    reports = project.path / "runner/pytest-divergence"
    environment = {
        "PATH": os.pathsep.join(map(str, folders)),
        "RUNNER_TEMP": str(reports.parent),
        "GITHUB_OUTPUT": str(outputs),
        "SUITE": SUITE,
        "MODEL_1": "base",
        "MODEL_2": "ft",
        "ARGUMENTS": "--dtype float32 --system-prompt 'Be brief; $(touch harm)'",
    }
    run = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=project.path,
        env={**os.environ, **environment},
        check=False,
    )
    assert run.returncode == 1, "the exit code of a replay is the step's"
    assert outputs.read_text("utf-8") == f"report={reports / 'latest'}\n"
    assert not (project.path / "harm").exists()
    words = (project.path / "words").read_text("utf-8").splitlines()
    assert words == [
        *("replay", SUITE, f"--report-dir={reports}", "--model-1=base", "--model-2=ft"),
        *("--dtype", "float32", "--system-prompt", "Be brief; $(touch harm)"),
    ]
    (reports / "latest").rmdir()
    assert main(words) == 0
    return reports / "latest"


class GitHub(ThreadingHTTPServer):
    """As much of GitHub's API as comments need, with a stranger who writes our marker."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.may_write = True
        self.comments: list[dict[str, Any]] = []

    def add(self, login: str, body: str) -> dict[str, Any]:
        number = len(self.comments)
        self.comments.append(
            {"id": number, "user": {"login": login}, "body": body, "html_url": f"comment {number}"}
        )
        return self.comments[-1]


class Answers(BaseHTTPRequestHandler):
    server: GitHub

    def do_GET(self) -> None:
        if self.path == "/user":
            return self._answer(403, {})
        page = int(self.path.rpartition("page=")[2])
        return self._answer(200, self.server.comments[100 * (page - 1) : 100 * page])

    def do_POST(self) -> None:
        if not self.server.may_write:
            return self._answer(403, {})
        return self._answer(201, self.server.add("github-actions[bot]", self._given()["body"]))

    def do_PATCH(self) -> None:
        comment = self.server.comments[int(self.path.rpartition("/")[2])]
        comment["body"] = self._given()["body"]
        self._answer(200, comment)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def _given(self) -> Any:
        assert self.headers["Authorization"] == "Bearer secret"
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, code: int, value: object) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())


@pytest.fixture
def github() -> Iterator[GitHub]:
    with GitHub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def comment(
    github: GitHub, folder: Path, report: Path | str, *, suite: str = SUITE, is_pull: bool = True
) -> str:
    """Run the action's last step; return what it prints."""
    event = {"pull_request": {"number": 7, "head": {"sha": "0123456789abcdef"}}}
    (folder / "event.json").write_text(json.dumps(event if is_pull else {}), "utf-8")
    environment = {
        "GITHUB_EVENT_PATH": str(folder / "event.json"),
        "GITHUB_API_URL": f"http://127.0.0.1:{github.server_address[1]}",
        "GITHUB_SERVER_URL": "https://github.example",
        "GITHUB_REPOSITORY": "owner/project",
        "GITHUB_RUN_ID": "42",
        "SUITE": suite,
        "REPORT": str(report),
        "TOKEN": "secret",
    }
    run = subprocess.run(
        [sys.executable, str(COMMENT)], env=environment, capture_output=True, text=True, check=True
    )
    assert "secret" not in run.stdout + run.stderr
    return run.stdout


def test_a_replay_leaves_one_comment_that_is_kept_up_to_date(
    replayed: Path, github: GitHub, tmp_path: Path
) -> None:
    assert comment(github, tmp_path, replayed) == "comment: comment 0\n"
    (first,) = github.comments
    marker, *lines = first["body"].splitlines()
    assert marker.startswith("<!-- pytest-divergence ")
    assert lines[:3] == [
        "# pytest-divergence",
        "",
        "**No case over its bound: 1 of 1 case within it.**",
    ]
    assert "report.html" not in first["body"]
    assert lines[-1] == (
        "[Report and log](https://github.example/owner/project/actions/runs/42), of commit "
        "0123456789."
    )

    github.comments.insert(0, {**first, "user": {"login": "stranger"}})  # with our marker
    for number, each in enumerate(github.comments):
        each["id"] = number
    assert comment(github, tmp_path, "") == "comment: comment 0\n"
    assert [each["user"]["login"] for each in github.comments] == [
        "stranger",
        "github-actions[bot]",
    ]
    assert "**Nothing was measured; the log of the run says why.**" in github.comments[1]["body"]
    assert "Nothing" not in github.comments[0]["body"]

    comment(github, tmp_path, replayed, suite="tests/other.divergence.jsonl")
    assert len(github.comments) == 3


def test_the_comment_is_found_among_hundreds(github: GitHub, tmp_path: Path) -> None:
    for _ in range(100):
        github.add("someone", "Looks good to me.")
    comment(github, tmp_path, "")
    comment(github, tmp_path, "")

    assert len(github.comments) == 101


def test_a_long_summary_is_cut_where_its_block_can_be_closed(
    github: GitHub, tmp_path: Path
) -> None:
    (tmp_path / "summary.md").write_text("```text\n" + "| words\n" * 9000 + "```\n", "utf-8")
    comment(github, tmp_path, tmp_path)

    body = github.comments[0]["body"]
    assert len(body) < 65_536
    assert "| words\n```\n\nThe rest is in the report.\n" in body


def test_what_cannot_be_commented_on_fails_nothing(github: GitHub, tmp_path: Path) -> None:
    assert comment(github, tmp_path, "", is_pull=False) == "no pull request, so no comment\n"

    github.may_write = False
    assert comment(github, tmp_path, "") == (
        "::warning::pytest-divergence cannot comment on the pull request (403); the job needs "
        "`permissions: pull-requests: write`, which a fork's pull request never has\n"
    )
    assert github.comments == []
