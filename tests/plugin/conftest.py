"""A user's project with two models in it, and the suites that stories need."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pytest_divergence.core.cases import case_id
from pytest_divergence.core.tokens import StoredTokens, prompt_digest
from tests.forked import run_forked
from tests.tiny import tiny_tokenizer

MODELS = ("--model-1=base", "--model-2=ft")
KNOT = "How do I tie a knot?"
POEM = "Write a poem about rain."


def session_words(plugin: str, arguments: Sequence[str]) -> list[str]:
    """The command line of a session with no plugin but one; warnings are errors."""
    return ["-p", plugin, "-p", "no:cacheprovider", "-W", "error", *arguments]


class Project:
    """A folder in which pytest is run as a user would."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path: Path = pytester.path

    def run(self, *arguments: str, plugin: str = "divergence") -> pytest.RunResult:
        """One pytest session with no plugin but `plugin`; warnings are errors."""
        return self.pytester.runpytest_inprocess(*session_words(plugin, arguments))

    def run_forked(self, *arguments: str) -> pytest.RunResult:
        """A session in a process of its own, for what ends a process or must see it whole."""
        started = time.monotonic()
        done = run_forked(lambda: pytest.main(session_words("divergence", arguments)), self.path)
        lines = (done.stdout.splitlines(), done.stderr.splitlines())
        return pytest.RunResult(done.returncode, *lines, time.monotonic() - started)

    def run_fresh(self, *arguments: str, plugin: str = "divergence") -> pytest.RunResult:
        """A session in an interpreter that has imported nothing, and has no model in memory."""
        command = [sys.executable, "-m", "pytest", *session_words(plugin, arguments)]
        return self.pytester.run(*command, timeout=120)

    def write(self, name: str, text: str) -> Path:
        """A file of the project."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def write_suite(self, name: str, *rows: Mapping[str, Any]) -> Path:
        """A suite of hand-written rows."""
        return self.write(name, "".join(json.dumps(dict(row)) + "\n" for row in rows))


@pytest.fixture
def project(
    pytester: pytest.Pytester, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """A project with the models `base`, `ft` and `adapter` in its root."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    for model in tiny_models.iterdir():
        shutil.copytree(model, pytester.path / model.name)
    return Project(pytester)


def stored_tokens(prompt: str) -> StoredTokens:
    """Made-up continuations of a prompt, as the tiny models' tokenizer reads it."""
    turns = [{"role": "user", "content": prompt}]
    text = tiny_tokenizer().apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tiny_tokenizer().encode(str(text), add_special_tokens=False)
    return StoredTokens(
        id=case_id(prompt),
        prompt_sha256=prompt_digest(ids),
        reference=[[40, 41, 42, 2]],
        candidate=[[50, 51, 2]],
    )


def nodeid(suite: str, prompt: str) -> str:
    """The node id of a prompt's case."""
    return f"{suite}::{case_id(prompt)}"


def shown(result: pytest.RunResult) -> str:
    """All that a user sees."""
    return "\n".join([*result.outlines, *result.errlines])


def block(result: pytest.RunResult, first: str, count: int) -> Sequence[str]:
    """The lines of the output from the one that begins with `first`."""
    start = next(i for i, line in enumerate(result.outlines) if line.startswith(first))
    return result.outlines[start : start + count]


def properties(path: Path) -> dict[str, dict[str, str]]:
    """By test: what its item left in a JUnit file."""
    return {
        str(case.get("name")): {
            str(one.get("name")).removeprefix("divergence_"): str(one.get("value"))
            for one in case.iter("property")
        }
        for case in ElementTree.parse(path).iter("testcase")
    }


CONTROLS = ("Hello!", "What is 17 + 5?", "Name three rivers.", "Say it in one word.")
SUITE = "served.divergence.jsonl"


@pytest.fixture(scope="session")
def _served_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of the suite of `served` are kept from the first test that made it."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture
def served(project: Project, _served_files: Path) -> Project:
    """A project with a suite that was measured on local weights, `base` and `ft`."""
    if not any(_served_files.iterdir()):
        rows: list[dict[str, Any]] = [{"input": KNOT}, {"input": POEM}]
        rows += [{"input": text, "tags": ["control"]} for text in CONTROLS]
        project.write_suite(SUITE, *rows)
        result = project.run(SUITE, "--model-1=base", "--model-2=ft", "--divergence-fill")
        result.assert_outcomes(passed=2)
        for path in project.path.glob("served.*"):
            shutil.copy(path, _served_files)
    shutil.copytree(_served_files, project.path, dirs_exist_ok=True)
    return project
