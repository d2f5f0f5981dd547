"""Which prompts and responses a file of training data gives, and what is said of a bad one."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery.plan import SearchPlan, identify_pair
from pytest_divergence.discovery.prompt_files import (
    SHIPPED_CONTROLS,
    SHIPPED_SEEDS,
    shipped_prompts,
)
from pytest_divergence.discovery.training_data import (
    MAX_SEED_LENGTH,
    TrainingData,
    read_training_data,
)
from pytest_divergence.models.pair import ModelPair

USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
SYSTEM = {"role": "system", "content": "Be brief."}
ASK_AGAIN, REPLY_AGAIN = (
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "So."},
)


def written(folder: Path, *rows: Mapping[str, Any]) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def taught(data: TrainingData) -> list[list[tuple[str, str]]]:
    return [[(each.prompt, each.response) for each in row.exchanges] for row in data.rows]


def refusal(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        read_training_data(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("row", "exchanges"),
    [
        ({"prompt": "Hi", "completion": "Ho"}, [("Hi", "Ho")]),
        ({"prompt": [SYSTEM, USER], "completion": [REPLY]}, [("Be brief.\nHi", "Ho")]),
        ({"prompt": "Hi", "chosen": "Ho", "rejected": "No"}, [("Hi", "Ho")]),
        ({"chosen": [USER, REPLY], "rejected": [USER, REPLY_AGAIN]}, [("Hi", "Ho")]),
        (
            {"messages": [SYSTEM, USER, REPLY, ASK_AGAIN, REPLY_AGAIN], "source": "x"},
            [("Be brief.\nHi", "Ho"), ("And?", "So.")],
        ),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
            [("Hi", "Ho")],
        ),
        ({"instruction": "Add.", "input": "1 and 2", "output": "3"}, [("Add.\n1 and 2", "3")]),
        ({"prompt": "Hi", "completion": "Ho", "label": False}, []),
        ({"messages": [USER]}, []),
        (
            {"messages": [{**USER, "content": [{"type": "text", "text": "Hi"}]}, REPLY]},
            [("Hi", "Ho")],
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": []}, REPLY]},
            [("Hi", "Ho")],
        ),
    ],
)
def test_a_row_of_each_kind_gives_prompts_and_responses(
    tmp_path: Path, row: dict[str, Any], exchanges: list[tuple[str, str]]
) -> None:
    path = written(tmp_path, row, {"prompt": "Why?", "completion": "So."})

    data = read_training_data(path)

    assert taught(data) == [exchanges, [("Why?", "So.")]]
    assert data.rows[0].opening in ("Hi", "Add.")


def test_a_list_and_a_table_hold_the_same_rows(tmp_path: Path) -> None:
    """A label may follow a blank."""
    rows = [
        {"prompt": "Hi, you", "completion": "Ho", "label": False},
        {"prompt": "Why?", "completion": 'So "it".', "label": True},
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows, indent=1), "utf-8")
    table = 'prompt,completion,label\n"Hi, you",Ho, False\n\nWhy?,"So ""it"".", True\n'
    (tmp_path / "train.csv").write_text(table, "utf-8")

    lines, listed, tabled = (
        read_training_data(path)
        for path in (written(tmp_path, *rows), tmp_path / "train.json", tmp_path / "train.csv")
    )

    assert lines.rows == listed.rows == tabled.rows
    assert taught(tabled) == [[], [("Why?", 'So "it".')]]
    assert len({lines.sha256, listed.sha256, tabled.sha256}) == 3


def test_a_table_of_several_formats_gives_each_row_by_its_own(tmp_path: Path) -> None:
    """As `to_json` and `to_csv` of pandas write it: what a row does not have is null, or empty."""
    rows: list[dict[str, Any]] = [
        {"messages": [USER, REPLY]},
        {"prompt": "Hi", "completion": "Ho"},
        {"input": "Hi", "output": "Ho"},
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = written(tmp_path, *({name: row.get(name) for name in names} for row in rows))
    table = tmp_path / "train.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows[1:])

    data = read_training_data(lines)

    greeting = [("Hi", "Ho")]
    assert taught(data) == [*[greeting] * 3, [("Add.\n1 and 2", "3")], [("Why?", "So.")]]
    assert [row.opening for row in data.rows] == ["Hi", "Hi", "Hi", "Add.", "Why?"]
    assert read_training_data(table).rows == data.rows[1:]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON: "),
        ('{"prompt": "a", "prompt": "b"}', "not valid JSON: the key"),
        ("3", "a row of training data holds `messages`, or a prompt (`prompt`, `input` or"),
        ('{"chosen": "a", "rejected": "b"}', "a row of training data holds"),
        ('{"prompt": "a", "completion": 3}', "a row of training data holds"),
        ('{"messages": []}', "a row of training data holds"),
        ('{"messages": ["a"]}', "a row of training data holds"),
        ('{"messages": [{"role": "user", "content": 3}]}', "a row of training data holds"),
        ('{"messages": [{"content": "a"}]}', "a row of training data holds"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n\n' + line + "\n", "utf-8")

    assert refusal(path).startswith(f"{path}:3: {reason}")


def test_a_refusal_says_what_the_row_has(tmp_path: Path) -> None:
    """What is null counts as missing."""
    row = {"text": "a", "\x1b[2J": 1, "completion": None}

    assert refusal(written(tmp_path, row)).endswith(
        "each a text or a list of messages; this one has text, \\u{1b}[2J"
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", "[", "x.json: not valid JSON: "),
        ("x.json", '[{"prompt": "a", "output": "b"}, {}]', "x.json: row 2: a row of training"),
        ("x.csv", "prompt,topic\na,b\n", "x.csv:1: the header has prompt, topic; one column must"),
        ("x.csv", "prompt,output\na\n", "x.csv:2: a row needs 2 fields; this one has 1"),
        ("x.csv", "prompt,output\na,\n", "x.csv has no responses; write prompts and responses as"),
        ("x.jsonl", " \n\n", "x.jsonl has no rows; write prompts and responses as JSON Lines"),
        ("x.jsonl", '{"messages": [{"role": "user", "content": "a"}]}', "x.jsonl has no responses"),
        ("x.txt", "a prompt", "x.txt:1: not valid JSON"),
    ],
)
def test_a_file_without_responses_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text, "utf-8")

    with pytest.raises(SettingsError, match=re.escape(message)):
        read_training_data(tmp_path / name)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b"caf\xe9")

    for path in (tmp_path / "missing.jsonl", tmp_path, tmp_path / "latin.jsonl"):
        assert refusal(path).startswith(f"--divergence-training-data={path} cannot be read: ")
    parquet = refusal(tmp_path / "train.parquet")
    assert "Parquet is not read; write the file as JSON Lines" in parquet


def asked(*prompts: str) -> list[dict[str, str]]:
    return [{"prompt": prompt, "completion": "So."} for prompt in prompts]


def planned(pair: ModelPair, **given: Any) -> Sequence[str]:
    settings = Settings(profile="smoke", **given)
    return SearchPlan.of(settings, identify_pair(pair), {}).seeds


def test_half_of_the_seeds_are_prompts_of_the_data(tmp_path: Path, pair: ModelPair) -> None:
    prompts = [f"What of {number}?" for number in range(100)]
    controls = shipped_prompts(SHIPPED_CONTROLS, 3)
    path = str(written(tmp_path, *asked(*controls, "", "long " * MAX_SEED_LENGTH, *prompts)))

    seeds = planned(pair, training_data=path)

    count = PROFILES["smoke"].num_seeds
    assert len(set(seeds)) == len(seeds) == count
    assert set(seeds[: count // 2]) <= set(prompts)
    assert seeds[count // 2 :] == shipped_prompts(SHIPPED_SEEDS, count // 2)
    assert planned(pair, training_data=path) == seeds
    assert planned(pair, training_data=path, seed=1)[: count // 2] != seeds[: count // 2]


def test_given_seeds_come_first_and_shipped_ones_fill_up_where_none_are_given(
    tmp_path: Path, pair: ModelPair
) -> None:
    given = tmp_path / "seeds.txt"
    given.write_text("Why so?\nHow so?\n", "utf-8")
    path = str(written(tmp_path, *asked("How so?", "What for?", "What for?")))
    rest = shipped_prompts(SHIPPED_SEEDS, PROFILES["smoke"].num_seeds - 2)

    seeds = planned(pair, seeds=str(given), training_data=path)

    assert seeds == ["Why so?", "How so?", "What for?"]
    filled = planned(pair, training_data=path)
    assert (sorted(filled[:2]), filled[2:]) == (["How so?", "What for?"], rest)
