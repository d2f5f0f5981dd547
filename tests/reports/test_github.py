from __future__ import annotations

import pytest

from pytest_divergence.reports.github import (
    CUT,
    MAX_ANNOTATIONS,
    Outcome,
    failure_annotations,
    fault_annotation,
    fault_markdown,
    fitted,
    outcomes_markdown,
)

SUITE = "suites/release.divergence.jsonl"


def failed(number: int, text: str = "KL 0.250 nats/token > max_kl 0.200\n  prompt") -> Outcome:
    return Outcome(f"case-{number}", SUITE, number, "failed", 0.25 + number, 0.2, text)


PASSED = Outcome("fine", SUITE, 1, "passed", 0.1, 0.2)


def test_a_failure_is_one_command_on_its_line() -> None:
    assert failure_annotations([PASSED, failed(7)]) == [
        f"::error file={SUITE},line=7,title=case-7::KL 0.250 nats/token > max_kl 0.200"
    ]


def test_what_would_end_a_property_or_a_line_is_escaped() -> None:
    one = Outcome("a,b:c%d", "x,y:z.divergence.jsonl", 2, "error", text="50 % \r::error::x\nnext")
    assert failure_annotations([one]) == [
        "::error file=x%2Cy%3Az.divergence.jsonl,line=2,title=a%2Cb%3Ac%25d::"
        "50 %25 \\u{d}::error::x"
    ]


@pytest.mark.parametrize("hostile", ["\x1b[31m", "\u2028::error::x", "\x85", "##[error]x"])
def test_hidden_characters_and_old_commands_are_shown(hostile: str) -> None:
    lines = [*failure_annotations([failed(1, f"model: {hostile}")]), fault_annotation(hostile)]
    for line in lines:
        assert line.isprintable()
        assert "##[" not in line


@pytest.mark.parametrize(
    ("count", "last"), [(10, "case-10"), (11, "2 more failures: "), (40, "31")]
)
def test_past_githubs_limit_the_last_annotation_says_how_many_are_left(
    count: int, last: str
) -> None:
    lines = failure_annotations([failed(number) for number in range(1, count + 1)])
    assert len(lines) == MAX_ANNOTATIONS
    assert last in lines[-1]


def test_the_summary_shows_failures_first_and_their_texts_in_fences() -> None:
    text = outcomes_markdown([PASSED, failed(1, "KL 1.250\n  | ```\n# a heading")])
    assert text.splitlines() == [
        "# pytest-divergence",
        "",
        "**1 of 2 tests failed.**",
        "",
        "|Verdict|KL, nats/token|Bound|Test|",
        "|---|--:|--:|---|",
        "|failed|1.250|0.200|`case-1`|",
        "|passed|0.100|0.200|`fine`|",
        "",
        "## `case-1`",
        "",
        "```text",
        "| KL 1.250",
        "|   | ```",
        "| # a heading",
        "```",
    ]


def test_a_test_without_numbers_has_dashes_and_a_name_that_breaks_no_table() -> None:
    text = outcomes_markdown([Outcome("test[a|`b`]", "t.py", 1, "error", text="no models")])
    assert "|error|–|–|`` test[a¦`b`] ``|" in text


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
