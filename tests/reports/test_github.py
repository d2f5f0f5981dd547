"""GitHub's limits: ten annotations, twenty texts, 1 MiB of a summary; and nothing hidden."""

from __future__ import annotations

import pytest

from pytest_divergence.reports.github import (
    CUT,
    MAX_ANNOTATIONS,
    failure_annotations,
    fault_annotation,
    fault_markdown,
    fitted,
    outcomes_markdown,
)
from tests.reports.made_tables import failed


@pytest.mark.parametrize("hostile", ["\x1b[31m", "\u2028::error::x", "\x85", "##[error]x"])
def test_hidden_characters_and_old_commands_are_shown(hostile: str) -> None:
    lines = [*failure_annotations([failed(1, f"model: {hostile}")]), fault_annotation(hostile)]
    for line in lines:
        assert line.isprintable()
        assert "##[" not in line


@pytest.mark.parametrize(("count", "last"), [(10, "case-10"), (11, "2 more failures: ")])
def test_past_githubs_limit_the_last_annotation_says_how_many_are_left(
    count: int, last: str
) -> None:
    lines = failure_annotations([failed(number) for number in range(1, count + 1)])
    assert len(lines) == MAX_ANNOTATIONS
    assert last in lines[-1]


def test_a_fault_of_the_session_stands_in_a_fence() -> None:
    assert fault_markdown("x.jsonl:3: <b>bad</b>").splitlines()[2:5] == [
        "```text",
        "| x.jsonl:3: <b>bad</b>",
        "```",
    ]


def test_more_than_twenty_texts_are_left_to_the_log() -> None:
    text = outcomes_markdown([failed(number) for number in range(23)])
    assert text.count("```text") == 20
    assert text.endswith("3 more failures in the step's log.\n")


def test_a_summary_is_cut_between_lines_with_its_fence_closed() -> None:
    text = outcomes_markdown([failed(number, "é" * 500) for number in range(5)])
    size = len(text.encode())
    assert fitted(text, size) == text
    for room in range(0, size, 7):
        cut = fitted(text, room)
        assert len(cut.encode()) <= room
        assert cut == "" or cut.endswith(CUT)
        fences = [line for line in cut.splitlines() if line.startswith("```")]
        assert len(fences) % 2 == 0
