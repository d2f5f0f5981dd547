from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.tokens import (
    ListedTokens,
    StoredTokens,
    load_tokens,
    prompt_digest,
)
from tests.tokens_writing import write_tokens

DIGEST = prompt_digest([1, 2, 3])


def stored(case_id: str, **changes: Any) -> StoredTokens:
    row = {"prompt_sha256": DIGEST, "reference": [[5, 0]], "candidate": [[7], [8, 9]], **changes}
    return StoredTokens.model_validate({"id": case_id, **row})


def test_rows_read_like_this_and_read_back_by_case(tmp_path: Path) -> None:
    path = tmp_path / "s.tokens.jsonl"
    told = stored("b-1", candidate_log_p=[[-0.5], [-1.25, -3.0]])
    write_tokens(path, [told, stored("a-1")])
    assert path.read_text() == (
        f'{{"id": "a-1", "prompt_sha256": "{DIGEST}", '
        '"reference": [[5, 0]], "candidate": [[7], [8, 9]]}\n'
        f'{{"id": "b-1", "prompt_sha256": "{DIGEST}", "reference": [[5, 0]], '
        '"candidate": [[7], [8, 9]], "candidate_log_p": [[-0.5], [-1.25, -3.0]]}\n'
    )
    assert load_tokens(path) == {"a-1": stored("a-1"), "b-1": told}


def test_the_digest_of_a_prompt_never_changes() -> None:
    assert hashlib.sha256(b"1,2,3").hexdigest() == DIGEST
    assert prompt_digest([12, 3]) != prompt_digest([1, 23])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"reference": [[5, -1]]}, "reference.0.1 is -1; it should be greater than or equal to 0"),
        ({"reference": [[5, True]]}, "reference.0.1 is true; it should be a valid integer"),
        ({"candidate": [[]]}, "candidate.0 is []; List should have at least 1 item"),
        ({"reference": [], "candidate": []}, "reference and candidate are both empty"),
        (
            {"candidate_log_p": [[-0.5], [-1.0]]},
            "candidate_log_p holds [1, 1] numbers and candidate [1, 2] tokens; it needs one",
        ),
        ({"id": "../x"}, 'id is "../x"; String should match pattern'),
    ],
)
def test_a_faulty_row_is_named(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    path = tmp_path / "s.tokens.jsonl"
    rows = [stored("a-1").model_dump(), {**stored("b-1").model_dump(), **change}]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(SuiteError) as caught:
        load_tokens(path)
    assert str(caught.value).startswith(f"{path}:2: {fault}")


def test_one_case_cannot_have_two_rows(tmp_path: Path) -> None:
    path = tmp_path / "s.tokens.jsonl"
    with pytest.raises(SuiteError, match="case a-1 is given twice; drop one"):
        write_tokens(path, [stored("a-1"), stored("a-1")])
    path.write_text(2 * (stored("a-1").model_dump_json() + "\n"))
    with pytest.raises(SuiteError, match=":2: repeats the tokens of case a-1; drop one"):
        load_tokens(path)


def test_a_listing_knows_whose_continuations_there_are_before_it_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "s.tokens.jsonl"
    write_tokens(path, [stored("b-1"), stored("a-1")])
    listed = ListedTokens(path)
    path.write_text("{}\n")
    assert set(listed) == {"a-1", "b-1"}
    assert "a-1" in listed
    assert len(listed) == 2
    with pytest.raises(SuiteError, match="id is missing"):
        listed["a-1"]


def test_a_listing_reads_a_file_that_was_written_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "s.tokens.jsonl"
    row = stored("a-1").model_dump(mode="json")
    path.write_text(json.dumps(dict(reversed(row.items()))) + "\n\n")
    listed = ListedTokens(path)
    assert dict(listed) == load_tokens(path) == {"a-1": stored("a-1")}
    path.write_text('{"id": "a"')
    with pytest.raises(SuiteError):
        ListedTokens(path)
