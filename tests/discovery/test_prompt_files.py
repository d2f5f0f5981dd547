"""Which prompts a file gives, and what is said of one that gives none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.discovery.prompt_files import (
    SHIPPED_CONTROLS,
    SHIPPED_SEEDS,
    read_prompts,
    read_seeds,
)


def refusal(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        read_prompts(path)
    return str(caught.value)


def test_a_text_file_has_a_seed_a_line(tmp_path: Path) -> None:
    path = tmp_path / "seeds.txt"
    path.write_bytes("\ufeffHow?\r\n\n  Why?  \nwith\u2028one line".encode())

    assert read_prompts(path) == ["How?", "Why?", "with\u2028one line"]


def test_json_lines_take_three_ways_to_say_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text(
        '{"input": "one", "tags": ["x"]}\n'
        '{"prompt": "two"}\n'
        "\n"
        '{"messages": [{"role": "user", "content": "three"}]}\n'
    )

    assert read_prompts(path) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON: "),
        ('{"input": "a", "input": "b"}', "not valid JSON: the key"),
        ("[1]", "a seed is an object with `input` or `prompt` (a string), or `messages`"),
        ('{"input": 3}', "a seed is an object with"),
        ('{"messages": []}', "a seed is an object with"),
        ('{"messages": [{"role": "system", "content": "a"}]}', "a seed is an object with"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"input": "fine"}\n\n' + line + "\n")

    assert refusal(path).startswith(f"{path}:3: {reason}")


def test_a_file_without_seeds_or_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "seeds.txt"
    empty.write_text(" \n\n\t\n")
    assert refusal(empty) == f"{empty} has no prompts; write one per line, or JSON Lines"

    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")

    for path in (tmp_path / "missing.txt", tmp_path, tmp_path / "latin.txt"):
        assert refusal(path).startswith(f"--divergence-seeds={path} cannot be read: ")


def test_shipped_prompts_are_many_and_no_seed_is_a_control() -> None:
    seeds, controls = read_prompts(SHIPPED_SEEDS), read_prompts(SHIPPED_CONTROLS)

    assert len(set(seeds)) == len(seeds) >= 200
    assert len(set(controls)) == len(controls) >= 128
    assert not set(seeds) & set(controls)


def test_a_csv_file_gives_its_prompt_column(tmp_path: Path) -> None:
    path = tmp_path / "seeds.csv"
    path.write_text('topic,prompt\nknots,"How do I tie\na knot?"\n\nrain, A poem. \n', "utf-8")

    assert read_prompts(path) == ["How do I tie\na knot?", "A poem."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topic,question\na,b\n", "seeds.csv:1: the header has topic, question; one column"),
        ("topic,prompt\na,b\nc\n", "seeds.csv:3: a row needs 2 fields; this one has 1"),
        ("prompt\na\n  \n", "seeds.csv:3: a row needs text in `prompt`"),
        ('prompt\n"a" b\n', "seeds.csv:2: not valid CSV"),
        ("", "seeds.csv:1: the header has no column"),
    ],
)
def test_a_bad_csv_file_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "seeds.csv"
    path.write_text(text, "utf-8")

    with pytest.raises(SettingsError, match=re.escape(message)):
        read_prompts(path)


def test_a_dataset_gives_its_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "questions"
    folder.mkdir()
    (folder / "train.csv").write_text("q,n\nHow so?,1\n,2\nWhy?,3\n", "utf-8")

    with pytest.raises(SettingsError, match="hf:questions must be hf:DATASET:COLUMN"):
        read_seeds("hf:questions")
    assert read_seeds(f"hf:{folder}:q") == ["How so?", "Why?"]
    with pytest.raises(SettingsError, match="no column is named x; the dataset has q, n"):
        read_seeds(f"hf:{folder}:x")
    with pytest.raises(SettingsError, match="the dataset cannot be loaded"):
        read_seeds(f"hf:{tmp_path / 'nowhere'}:x")
