"""Suites in the hands of `datasets` and pandas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence import suite_features
from pytest_divergence.core.cases import Case, case_id
from pytest_divergence.core.suites import load_suite, write_suite
from tests.core.made_suites import KNOT, POEM, case, measured
from tests.exports.made_export import CHAT, SUITE, write_hard_suite

datasets = pytest.importorskip("datasets")
pandas = pytest.importorskip("pandas")


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    write_hard_suite()


def loaded(*paths: Path, **options: Any) -> Any:
    files = [str(path) for path in paths]
    return datasets.load_dataset("json", data_files=files, split="train", **options)


def without_nothing(value: Any) -> Any:
    """Without the None for each key that only other rows have."""
    if not isinstance(value, dict):
        return value
    return {key: without_nothing(one) for key, one in value.items() if one is not None}


def test_datasets_reads_a_suite_as_it_is() -> None:
    rows = [case(KNOT, 0.8, kl=measured(0.8, sd=0.1)), case(POEM, 0.5, metadata={"a": [1, "b"]})]
    write_suite(SUITE, [*rows, Case(messages=CHAT)])

    read = {row["id"]: row for row in loaded(SUITE)}

    assert read[case_id(KNOT)]["kl"]["value"] == 0.8
    assert read[case_id(POEM)]["metadata"] == {"a": [1, "b"]}
    assert read[case_id(CHAT)]["messages"][-1] == {"role": "user", "content": "And?"}


def test_datasets_reads_suites_of_any_keys_together() -> None:
    """What the loader would infer from the first of these files, the others break."""
    plain, alias = Path("plain.divergence.jsonl"), Path("alias.divergence.jsonl")
    write_suite(plain, [Case(input="One"), Case(input="Two")])
    alias.write_text(
        '{"prompt": "Three", "max_kl": 1, "metadata": {"a": 1}}\n'
        '{"prompt": "Four", "metadata": {"a": ["b"]}}\n'
    )

    read = loaded(plain, alias, SUITE, features=suite_features())

    lines = [line for one in (plain, alias, SUITE) for line in one.read_text("utf-8").splitlines()]
    written = [json.loads(line) for line in lines]
    assert [without_nothing(row) for row in read] == [without_nothing(row) for row in written]
    read.to_parquet("suites.parquet")
    assert Case.model_validate(without_nothing(read[0])) == Case(input="One")


def test_pandas_reads_a_suite() -> None:
    frame = pandas.read_json(SUITE, lines=True).set_index("id")

    suite = load_suite(SUITE)
    assert list(frame.index) == [row.id for row in suite.rows]
    assert frame.loc[case_id(KNOT), "max_kl"] == 0.2
    measurements = pandas.json_normalize(frame["kl"].dropna().tolist())
    assert measurements["value"].max() == 0.8
    assert frame.loc[case_id(CHAT), "messages"][0]["role"] == "system"
