"""`pytest-divergence validate`, by hand and as the pre-commit hook calls it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from pytest_divergence.cli import main
from pytest_divergence.core.cases import case_id
from pytest_divergence.core.file_names import sidecar_path
from pytest_divergence.core.suites import load_suite
from tests.core.made_suites import KNOT, POEM, SIGNAL, case, control, write_searched

HOOKS = Path(__file__).parents[2] / ".pre-commit-hooks.yaml"
SUITE = Path("tests/release.divergence.jsonl")
LAST = max(case_id(prompt) for prompt in (KNOT, POEM, "Hello"))
TOKENS, PROVENANCE, REFERENCE = (
    sidecar_path(SUITE, kind) for kind in ("tokens.jsonl", "provenance.json", "reference.json")
)


@pytest.fixture(autouse=True)
def _released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with a suite that a search has left."""
    monkeypatch.chdir(tmp_path)
    SUITE.parent.mkdir()
    write_searched(SUITE, [case(KNOT, 0.8), case(POEM, 0.1), control("Hello")], SIGNAL)


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_sound_suites_are_found_and_pass(capsys: pytest.CaptureFixture[str]) -> None:
    Path("by_hand.divergence.jsonl").write_text('{"prompt": "Hello"}\n')
    hidden = Path(".divergence/suites")
    hidden.mkdir(parents=True)
    (hidden / "left.divergence.jsonl").write_text("half a row")

    assert main(["validate"]) == 0
    assert lines_of(capsys) == ["suites: 2, faults: 0"]


def test_every_bad_line_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with SUITE.open("a") as suite:
        suite.write(
            f'{{"inpt": "b"}}\n\n{{"input": "{KNOT}"}}\n{{"input": "c", "max_kl": -1}}\n[]\n{{'
        )
    with TOKENS.open("a") as tokens:
        tokens.write('{"id": "of-nothing"}\n')
    PROVENANCE.write_text("{}")

    assert main(["validate", str(SUITE)]) == 1
    knot = load_line(KNOT)
    assert lines_of(capsys) == [
        f'{SUITE}:4: unknown key "inpt"; did you mean "input"?',
        f"{SUITE}:6: repeats line {knot[0]} (id {knot[1]}); drop one",
        f"{SUITE}:7: max_kl is -1; it should be greater than 0",
        f'{SUITE}:8: each line must be one JSON object, in braces; this is "[]"',
        f"{SUITE}:9: not valid JSON: Expecting property name enclosed in double quotes at "
        "column 2; the last line has no line break, so the file may be cut off",
        f"{TOKENS}:4: prompt_sha256 is missing",
        f"{PROVENANCE}: tool_version is missing",
        "suites: 1, faults: 7",
    ]


def load_line(prompt: str) -> tuple[int, str]:
    """Where the sound rows of the suite hold a prompt."""
    sound = SUITE.with_name("sound.divergence.jsonl")
    sound.write_text("".join(SUITE.read_text("utf-8").splitlines(keepends=True)[:3]))
    suite = load_suite(sound)
    (row,) = (row for row in suite.rows if row.input == prompt)
    return suite.lines[row.id], row.id


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda: SUITE.write_text(""), "has no cases; an empty suite would pass without a test"),
        (
            lambda: SUITE.write_text("".join(SUITE.read_text().splitlines(keepends=True)[:2])),
            "lacks 1 of the 3 rows that it was written with (first: "
            f"{LAST}), so it may be cut off; restore it, or if you removed rows on purpose, remove "
            f"their lines from rows in {PROVENANCE.name} too",
        ),
    ],
)
def test_what_is_wrong_with_the_whole_file_is_said(
    damage: Any, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage()

    assert main(["validate", str(SUITE)]) == 1
    shown, total = lines_of(capsys)
    assert shown.removeprefix(f"{SUITE}:").lstrip() == fault
    assert total == "suites: 1, faults: 1"


def test_a_suite_is_checked_once_by_whichever_of_its_files_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    PROVENANCE.write_text("{")

    assert main(["validate", str(TOKENS), str(PROVENANCE), str(SUITE)]) == 1
    shown = lines_of(capsys)
    assert shown[0].startswith(f"{PROVENANCE}: not valid JSON: ")
    assert shown[1:] == ["suites: 1, faults: 1"]

    pointer = "version https://git-lfs.github.com/spec/v1\n"
    REFERENCE.write_text(pointer)  # as a checkout without git-lfs leaves it
    assert main(["validate", str(REFERENCE)]) == 1
    shown = lines_of(capsys)
    assert any(line.startswith(f"{REFERENCE}: not valid JSON: ") for line in shown)
    assert shown[-1] == "suites: 1, faults: 2"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["README.md"],
            "README.md: is not a suite; the name of a suite ends in .divergence.jsonl\n",
        ),
        ([], "error: there is no *.divergence.jsonl below this folder; name one\n"),
    ],
)
def test_what_is_no_suite_does_not_pass(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    SUITE.unlink()

    assert main(["validate", *words]) == 1
    shown = capsys.readouterr()
    assert (shown.out + shown.err).startswith(message)


def test_the_hook_runs_without_torch_as_pre_commit_runs_it() -> None:
    """With the entry and the files that `.pre-commit-hooks.yaml` names, in a process of its own."""
    (hook,) = yaml.safe_load(HOOKS.read_text("utf-8"))
    assert hook["id"] == "validate-divergence-suites"
    changed = [*(str(one) for one in (SUITE, TOKENS, PROVENANCE)), "tests/test_it.py", "rows.jsonl"]
    chosen = [name for name in changed if re.search(hook["files"], name)]
    assert chosen == changed[:3]

    program, *words = shlex.split(hook["entry"])
    assert program == "pytest-divergence"
    code = (
        "import sys; from pytest_divergence.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'transformers', 'numpy', 'pytest'} & set(sys.modules); sys.exit(code)"
    )

    def hook_on(*files: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *words, *files]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    passed = hook_on(*chosen)
    assert (passed.returncode, passed.stderr) == (0, "")
    SUITE.write_text('{"input": "a", "max_k": 1}\n')
    failed = hook_on(*chosen)
    assert failed.returncode == 1
    assert failed.stdout.startswith(f'{SUITE}:1: unknown key "max_k"; did you mean "max_kl"?\n')
