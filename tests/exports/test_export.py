"""`pytest-divergence export`, as a user types it, and what the other tool then reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from syrupy.assertion import SnapshotAssertion

from pytest_divergence.cli import main
from pytest_divergence.core.cases import case_id
from pytest_divergence.core.provenance import ModelProvenance
from tests.core.made_suites import KNOT, POEM, case, write_searched
from tests.exports.made_export import CHAT, FILE, SUITE, TRICKY, write_hard_suite
from tests.reports.snapshot_files import Text

TURNS = [turn.model_dump() for turn in CHAT]
PROMPTS: dict[str, Any] = {
    **{case_id(text): text for text in (KNOT, POEM, TRICKY, FILE, "By hand")},
    case_id(CHAT): TURNS,
}


@pytest.fixture(autouse=True)
def _suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_hard_suite()


def exported(format_: str, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["export", str(SUITE), f"--format={format_}", f"--output={name}"]) == 0
    shown = capsys.readouterr()
    assert re.fullmatch(rf"wrote {re.escape(name)}, cases: \d\n", shown.out)
    left_out = f"left out because the models' answers are missing: {case_id('By hand')}\n"
    assert shown.err == (left_out if format_ == "llm-comparator" else "")
    return Path(name).read_text("utf-8")


@pytest.mark.parametrize(
    ("format_", "name"),
    [
        ("inspect", "samples.jsonl"),
        ("promptfoo", "promptfooconfig.yaml"),
        ("llm-comparator", "comparison.json"),
    ],
)
def test_another_tool_gets_a_file(
    format_: str, name: str, snapshot: SnapshotAssertion, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(format_, name, capsys) == snapshot(extension_class=Text)


def test_inspect_reads_them(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = pytest.importorskip(
        "inspect_ai.dataset", reason="inspect-ai is not installed (it needs an older fsspec)"
    )
    exported("inspect", "samples.jsonl", capsys)

    read = {sample.id: sample.input for sample in dataset.json_dataset("samples.jsonl")}
    chat = read.pop(case_id(CHAT))
    assert [(turn.role, turn.content) for turn in chat] == [(t.role, t.content) for t in CHAT]
    assert {**read, case_id(CHAT): TURNS} == PROMPTS


def test_promptfoo_gets_prompts_that_it_cannot_expand(capsys: pytest.CaptureFixture[str]) -> None:
    configuration = json.loads(exported("promptfoo", "promptfooconfig.yaml", capsys))

    assert configuration["prompts"] == ["{{messages}}"]
    tests = configuration["tests"]
    prompts = {one["description"]: one["vars"]["messages"] for one in tests}
    for prompt in prompts.values():
        assert not re.search(r"\{[{%#]|[}%#]\}|^file:|\n", prompt)
    turns = {id_: json.loads(prompt) for id_, prompt in prompts.items()}
    assert turns.pop(case_id(CHAT)) == TURNS
    assert turns == {
        id_: [{"role": "user", "content": text}]
        for id_, text in PROMPTS.items()
        if isinstance(text, str)
    }


def test_a_configuration_is_yaml_whatever_is_in_a_prompt(
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompt = "".join(map(chr, (0x1, 0x7F, 0x85, 0x9B, 0x2028, 0xFEFF, 0xFFFE, 0x1F642)))
    write_searched(SUITE, [case(prompt, 0.8)])

    (test,) = yaml.safe_load(exported("promptfoo", "promptfooconfig.yaml", capsys))["tests"]
    assert json.loads(test["vars"]["messages"]) == [{"role": "user", "content": prompt}]


@pytest.mark.parametrize(
    ("folder", "words"), [(".divergence/suites", []), ("kept", ["kept"])], ids=["searched", "named"]
)
def test_the_suites_of_searches_or_of_a_folder_are_exported_with_those_below_it(
    folder: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, prompt in (("a", KNOT), ("deeper/b", POEM)):
        path = Path(folder, f"{name}.divergence.jsonl")
        path.parent.mkdir(parents=True)
        write_searched(path, [case(prompt, 0.8)])

    assert main(["export", "--format=inspect", *words, "--output=new/samples.jsonl"]) == 0
    lines = Path("new/samples.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["input"] for line in lines] == [KNOT, POEM]


@pytest.mark.parametrize(
    ("format_", "name"),
    [
        ("inspect", SUITE.name),
        ("inspect", "release.tokens.jsonl"),
        ("promptfoo", "release.provenance.json"),
        ("promptfoo", "release.reference.json"),
    ],
)
def test_no_export_takes_the_place_of_a_suite(
    format_: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    assert main(["export", str(SUITE), f"--format={format_}", f"--output={name}"]) == 1

    assert capsys.readouterr().err == (
        f"error: --output={name} is a name of a suite's files, which an export must not "
        "overwrite or look like; give another name\n"
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def other_pair() -> Path:
    path = Path("other.divergence.jsonl")
    candidate = ModelProvenance(spec="newer", kind="folder")
    return write_searched(path, [case("Why?", 0.8)], candidate=candidate)


def bare() -> Path:
    path = Path("bare.divergence.jsonl")
    return write_searched(path, [case("Why?", 0.8).with_changes(completions=None)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--format=inspect", "--output=samples.json", str(SUITE)],
            "--output=samples.json must end in .jsonl, or inspect cannot read it",
        ),
        (
            ["--format=promptfoo", str(SUITE), "again.divergence.jsonl"],
            f"again.divergence.jsonl:1: case {case_id(KNOT)} is also in {SUITE}:6; export one "
            "suite at a time",
        ),
        (
            ["--format=llm-comparator", str(SUITE), "other.divergence.jsonl"],
            f"other.divergence.jsonl: belongs to a different pair than {SUITE}; export one pair "
            "at a time",
        ),
        (
            ["--format=llm-comparator", "bare.divergence.jsonl"],
            "bare.divergence.jsonl: no case has the models' answers, which LLM Comparator "
            "shows; measure the cases with --divergence-fill",
        ),
    ],
)
def test_what_cannot_be_exported_is_said(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other_pair()
    bare()
    write_searched(Path("again.divergence.jsonl"), [case(KNOT, 0.8)])

    assert main(["export", *words]) == 1
    assert capsys.readouterr() == ("", f"error: {message}\n")
    assert not Path("samples.json").exists()
