"""Files of a stranger, with harm in every string of theirs, through every command."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.cli import main
from pytest_divergence.core.cases import CONTROL_TAG, Case, case_id
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.json_files import strict_dumps
from pytest_divergence.core.provenance import ModelProvenance, Provenance
from pytest_divergence.core.report import Report, ReportCase, write_report
from pytest_divergence.core.safe_text import printable
from pytest_divergence.core.suites import write_stored
from pytest_divergence.discovery.prompt_files import read_seeds
from tests.core.made_suites import control, tokens_of
from tests.hostile import (
    ESCAPES,
    HALF,
    HOSTILE,
    LONG,
    MARKUP,
    SAFE_ID,
    faults_in,
    faults_in_markdown,
    filled,
    hidden_in,
)

SUITE = Path("release.divergence.jsonl")
NAME = "::error::x\x1b[2J\u202e\n::error::y##[error]z"
"""What the file of a stranger may be called."""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_suite(SUITE)
    for run in ("one", "two"):
        Path(run).mkdir()
        case = filled(ReportCase, verdict="failed", off_distribution=False)
        settings = {HOSTILE: HOSTILE, "metric": HOSTILE, "model_1": HOSTILE}
        write_report(Path(run, "report.json"), filled(Report, cases=[case], settings=settings))


def write_suite(path: Path, **changes: Any) -> None:
    rows = [filled(Case, tags=()), control(f"{HOSTILE}!")]
    write_stored(path, rows, tokens_of(rows), filled(Provenance, **changes))


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """All that a command says; a traceback fails the test."""
    main(words)
    shown = capsys.readouterr()
    return shown.out + shown.err


COMMANDS = [
    ("report", "one"),
    ("report", "one", "two"),
    ("report", HOSTILE[:100]),
    ("diff", "one", "two"),
    ("diff", "one", str(SUITE)),
    ("diff", str(SUITE), HOSTILE[:100]),
    ("validate", str(SUITE)),
    ("validate", NAME),
    ("export", "--format", "inspect", NAME),
    ("export", "--format", "inspect", "--output", NAME, str(SUITE)),
    ("replay", NAME),
    ("show-config",),
    ("promote", str(SUITE), NAME),
    ("promote", str(SUITE), "one.divergence.jsonl", "--id", NAME),
    ("promote", "one", "run.divergence.jsonl"),
    ("promote", str(SUITE), "new.divergence.jsonl", "--all"),
    ("accept", NAME, str(SUITE)),
    ("accept", SAFE_ID, str(SUITE)),
]
"""Those that change the suite come last."""
DATA = [
    ("diff", "one", "two", "--json"),
    ("diff", "one", str(SUITE), "--json"),
    ("export", "--format", "inspect", str(SUITE)),
    ("export", "--format", "promptfoo", str(SUITE)),
    ("export", "--format", "llm-comparator", str(SUITE)),
]


def test_what_a_command_prints_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    for words in COMMANDS:
        assert faults_in(printed(capsys, *words)) == [], words


def test_data_is_of_its_format_and_hides_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for words in DATA:
        text = printed(capsys, *words)
        assert hidden_in(text) == set(), words
        for document in text.splitlines() if "inspect" in words else [text]:
            json.loads(document)


def test_pages_of_a_strangers_run(capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "report", "one", "two", "--output", "out")

    assert faults_in_markdown(Path("out/summary.md").read_text("utf-8")) == []
    assert hidden_in(Path("out/report.html").read_text("utf-8").replace("\t", "")) == set()


def test_files_of_ours_show_what_they_hide() -> None:
    """A reviewer of a suite reads its diff."""
    for name in (SUITE.name, "release.provenance.json", "one/report.json"):
        text = Path(name).read_text("utf-8")
        assert hidden_in(text) == set()
        assert r"\u202e" in text


def test_a_strangers_file_is_named_without_harm(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (NAME, HALF):
        suite = Path(f"{name}.divergence.jsonl")
        suite.write_text(f'{{"{NAME[0:14]}": 1}}\n', "utf-8", "replace")
        assert faults_in(printed(capsys, "validate", str(suite))) == []

    for words in (["validate"], ["export", "--format", "inspect", "."]):
        assert faults_in(printed(capsys, *words)) == []


BROKEN: list[str | bytes] = [
    json.dumps({"input": "a", HOSTILE: 1}),
    json.dumps({"input": "a", "id": HOSTILE}),
    json.dumps({"input": "a", "kl": {HOSTILE: HOSTILE}}),
    json.dumps({"messages": [{"role": HOSTILE, "content": HOSTILE}]}),
    '{"input": "a", "schema_version": ' + "9" * 4000 + "}",
    '{"input": "a", "schema_version": ' + "9" * 5000 + "}",
    '{"input": "a", "max_kl": 1e' + "9" * 4000 + "}",
    f'{{"{NAME[:20]}": 1, "{NAME[:20]}": 2}}',
    HOSTILE,
    HOSTILE.encode("utf-16"),
    "[" * 100_000,
]


@pytest.mark.parametrize(
    "name", ["x.divergence.jsonl", "release.tokens.jsonl", "release.provenance.json", "report.json"]
)
def test_what_is_said_of_a_broken_file_is_short_and_harmless(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", name] if name == "report.json" else ["validate", name]
    for text in BROKEN:
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        said = printed(capsys, *words)
        assert faults_in(said) == [], text[:40]
        assert "error" in said or "faults: " in said
        assert len(max(said.split("\n"), key=len)) < 1000


@pytest.mark.parametrize("name", ["seeds.csv", "seeds.jsonl", NAME, "a\x00b"], ids=ascii)
def test_what_is_said_of_seeds_is_short_and_harmless(name: str) -> None:
    if "\x00" not in name:
        text = "" if name == NAME else f"{MARKUP}{ESCAPES}{LONG},b\nc,d\n"
        Path(name).write_text(text, "utf-8")

    with pytest.raises(SettingsError) as caught:
        read_seeds(name)
    said = printable(str(caught.value))
    assert faults_in(said) == []
    assert hidden_in(str(caught.value).replace(name, "NAME")) == set()
    assert len(said) < 1000


def test_another_pair_is_named_without_harm(capsys: pytest.CaptureFixture[str]) -> None:
    other = Path("other.divergence.jsonl")
    write_suite(other, candidate=filled(ModelProvenance, weights_sha256="0" * 64))

    said = printed(capsys, "promote", str(other), str(SUITE), "--add")

    assert "another pair" in said
    assert faults_in(said) == []


def test_an_id_needs_no_escape() -> None:
    assert case_id(HOSTILE).isascii()
    assert CONTROL_TAG in control("x").tags
    assert strict_dumps({"a": "\x7f\u202e\U000e0001é"}) == r'{"a": "\u007f\u202e\udb40\udc01é"}'
    assert os.path.lexists(SUITE)
