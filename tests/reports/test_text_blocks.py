from __future__ import annotations

import shlex
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_divergence.core.safe_text import HIDDEN
from pytest_divergence.reports.text_blocks import block, columns, command, quoted
from tests.reports.made_reports import HOSTILE

ANY_TEXT = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from(" \n\r\t:#[`é漢🙂\x1b\u202e\u0301"),
    ),
    max_size=300,
)


def test_a_text_stands_behind_bars_with_its_own_line_breaks() -> None:
    lines = block("One.\n\n  - two", width=30, indent="  ")
    assert lines == ["  | One.", "  |", "  |   - two"]


def test_words_move_to_the_next_line_whole() -> None:
    lines = block("seven words that do not fit here", width=16, indent="")
    assert lines == ["| seven words", "| that do not", "| fit here"]


def test_a_command_for_a_ci_runner_never_starts_a_line() -> None:
    lines = block("a ::error::b " * 20, width=20, indent="  ")
    assert lines
    assert all(line.startswith("  | ") for line in lines)


def test_wide_letters_count_twice() -> None:
    lines = block("漢字漢字漢字", width=10, indent="")
    assert lines == ["| 漢字漢字", "| 漢字"]


def test_an_empty_text_is_said_to_be_empty() -> None:
    assert block("", width=80, indent="  ") == ["  (empty)"]


def test_a_cut_counts_what_is_missing() -> None:
    assert block("ab" * 50, width=80, indent="", limit=99)[-1] == "[cut: 1 more character]"
    lines = block("one\ntwo\nthree\nfour", width=80, indent="", max_lines=2)
    assert lines == ["| one", "| two", "[cut: 10 more characters]"]


@given(ANY_TEXT, st.integers(20, 90))
def test_no_block_leaves_its_columns_or_shows_what_is_hidden(text: str, width: int) -> None:
    lines = block(text, width=width, indent="    ", limit=200, max_lines=10)
    assert len(lines) <= 11
    for line in lines:
        assert line.startswith(("    |", "    [cut: ", "    (empty)"))
        assert columns(line) <= width
        assert not any(category(character) in HIDDEN for character in line)
        assert "##[" not in line


@given(st.text(st.sampled_from("ab \né漢🙂<`:"), max_size=300))
def test_a_whole_block_holds_the_whole_text(text: str) -> None:
    shown = "".join(line[1:] for line in block(text or "a", width=30, indent="", max_lines=999))
    assert "".join(shown.split()) == "".join((text or "a").split())


@given(ANY_TEXT, st.integers(12, 60))
def test_a_quoted_piece_fits(text: str, width: int) -> None:
    shown = quoted(text, width)
    assert columns(shown) <= width
    assert shown.endswith("…") or len(text) < width


def test_quotes_say_that_a_text_was_cut() -> None:
    assert quoted("short", 20) == '"short"'
    assert quoted("a rather long token", 10) == '"a rathe"…'


def test_a_long_command_breaks_between_its_arguments() -> None:
    line = shlex.join(["pytest-divergence", "accept", "behaviour-" + "x" * 30, "y" * 40])
    assert command("intended? accept it", line, width=80, indent="  ") == [
        "  intended? accept it:",
        f"    pytest-divergence accept behaviour-{'x' * 30} \\",
        f"      {'y' * 40}",
    ]


@pytest.mark.parametrize("width", [40, 80, 400])
def test_a_wrapped_command_is_the_same_command(width: int) -> None:
    line = shlex.join(["pytest", "a b/c.divergence.jsonl::id-1", "--model-1", "it's", "-v"])
    label, *rest = command("rerun", line, width=width, indent="  ")
    shown = "\n".join(rest) if rest else label.removeprefix("  rerun: ")
    as_a_shell_reads_it = shown.replace("\\\n", "")
    assert shlex.split(as_a_shell_reads_it) == shlex.split(line)


def test_a_command_with_hostile_names_stays_text() -> None:
    line = shlex.join(["pytest", HOSTILE, "--model-1", "::error::x"])
    for shown in command("rerun", line, width=80, indent=""):
        assert not shown.lstrip().startswith("::")
        assert not any(category(character) in HIDDEN for character in shown)
