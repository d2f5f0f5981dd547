"""Three files are one suite: what a reader does with a mixture."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.cases import Completions
from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.file_names import suite_files
from pytest_divergence.core.suites import faults_of, read_suite, write_stored
from tests.core.made_suites import (
    KNOT,
    POEM,
    SIGNAL,
    case,
    control,
    measured,
    provenance,
    tokens_of,
    write_searched,
)

KNOT_ID, POEM_ID = case(KNOT, 1.0).id, case(POEM, 1.0).id


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    rows = [case(KNOT, 0.4, completions=Completions(reference="a", candidate="b"))]
    path = tmp_path / "rel.divergence.jsonl"
    return write_searched(path, [*rows, case(POEM, 0.1), control("Hello")], SIGNAL)


def edit(path: Path, prompt_id: str, **changes: Any) -> None:
    """What an editor does to one row; None takes a key out."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for row in rows:
        if row["id"] == prompt_id:
            row |= changes
    kept = [{key: value for key, value in row.items() if value is not None} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), "utf-8")


def refusal(path: Path) -> str:
    with pytest.raises(SuiteError) as caught:
        read_suite(path)
    assert [str(fault) for fault in faults_of(path)] == [str(caught.value)], "validate says so too"
    return str(caught.value)


def test_limits_tags_metadata_and_new_rows_are_the_users(suite: Path) -> None:
    mine = {"max_kl": 9.0, "tags": ["mine"], "metadata": {"why": "a bug report"}}
    edit(suite, KNOT_ID, **mine, behaviour="mine", origin={"strategy": "by hand"})
    with suite.open("a") as file:
        file.write('{"input": "Is this new?"}\n')
    assert len(read_suite(suite).suite.rows) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"kl": measured(9.0).model_dump(mode="json")},
        {"kl": None},
        {"completions": {"reference": "a", "candidate": "c"}},
    ],
)
def test_a_row_that_was_measured_otherwise_is_named(suite: Path, changes: dict[str, Any]) -> None:
    edit(suite, KNOT_ID, **changes)
    assert refusal(suite) == (
        f"{suite}: row {KNOT_ID} has changed since rel.provenance.json was written, in its kl or "
        "its completions, so the files do not belong together; restore all three from one commit, "
        "or remove kl from the row and its line from rows in rel.provenance.json, and measure it "
        "with --divergence-fill"
    )


def test_the_way_out_that_is_named_is_one(suite: Path) -> None:
    edit(suite, KNOT_ID, kl=None, completions=None)
    beside = suite_files(suite)[1]
    written = json.loads(beside.read_text("utf-8"))
    del written["rows"][KNOT_ID]
    beside.write_text(json.dumps(written), "utf-8")
    assert [row.kl is None for row in read_suite(suite).suite.rows].count(True) == 1


def test_a_kl_that_was_written_by_hand_is_named(suite: Path) -> None:
    with suite.open("a") as file:
        kl = measured(0.1).model_dump_json()
        file.write(f'{{"input": "Is this new?", "kl": {kl}}}\n')
    assert "has a kl that rel.provenance.json does not know" in refusal(suite)


@pytest.mark.parametrize("name", ["\x1b[2J", "a\u202eb", "../x"])
def test_a_row_of_a_name_that_no_row_has_is_refused_in_print(suite: Path, name: str) -> None:
    """A provenance is untrusted, and its names reach a terminal."""
    beside = suite_files(suite)[1]
    written = json.loads(beside.read_text("utf-8"))
    written["rows"][name] = written["rows"][KNOT_ID]
    beside.write_text(json.dumps(written), "utf-8")

    message = refusal(suite)

    assert message.isprintable()
    assert "rel.provenance.json: rows" in message


def test_measured_rows_without_provenance_are_lost_evidence(suite: Path) -> None:
    for path in suite_files(suite)[:2]:
        path.unlink()
    said = refusal(suite)
    assert said.startswith(f"{suite}: 3 of its rows have a kl (first: ")
    assert "but rel.provenance.json is missing, which holds the bound, the behaviours and" in said


@pytest.mark.skipif(os.name != "posix", reason="needs FIFOs and links")
@pytest.mark.parametrize(
    ("beside", "kind"), [(0, "fifo"), (1, "fifo"), (1, "folder"), (1, "broken link")]
)
def test_what_is_no_file_does_not_count_as_no_provenance(
    suite: Path, beside: int, kind: str
) -> None:
    path = suite_files(suite)[beside]
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    with pytest.raises(SuiteError, match="cannot be read: "):
        read_suite(suite)
    assert faults_of(suite)


@pytest.mark.parametrize("kept", range(1, 7))
def test_no_mixture_of_two_generations_is_read(suite: Path, tmp_path: Path, kept: int) -> None:
    later = tmp_path / "later" / suite.name
    later.parent.mkdir()
    rows = [case(KNOT, 0.8), case(POEM, 0.2), control("Hello", 0.02)]
    write_stored(later, rows, tokens_of(rows, first=5), provenance(SIGNAL))
    for number, (ours, theirs) in enumerate(
        zip(suite_files(suite), suite_files(later), strict=True)
    ):
        if kept >> number & 1:
            shutil.copy(theirs, ours)
    assert "so the files do not belong together" in refusal(suite)


def test_a_suite_of_before_is_read(tmp_path: Path) -> None:
    for path in (Path(__file__).parent / "suite_of_before").iterdir():  # of 2026-11
        shutil.copy(path, tmp_path / f"release.{path.name}")
    stored = read_suite(tmp_path / "release.divergence.jsonl")
    assert stored.provenance is not None
    assert stored.provenance.rows is None
    assert stored.provenance.num_rows == len(stored.suite.rows) == len(stored.tokens)
    assert all(row.kl is not None and row.kl.evidence is None for row in stored.suite.rows)
    behaviour, *_ = stored.provenance.behaviours
    assert (behaviour.content, behaviour.breadth, behaviour.when) == (True, None, None)
