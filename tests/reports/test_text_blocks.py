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


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("One.\n\n  - two", 30, ["| One.", "|", "|   - two"]),
        ("seven words that do not fit here", 16, ["| seven words", "| that do not", "| fit here"]),
        ("漢字漢字漢字", 10, ["| 漢字漢字", "| 漢字"]),  # wide letters count twice
        ("", 80, ["(empty)"]),
        ("one\ntwo\nthree\nfour", 80, ["| one", "| two", "[cut: 10 more characters]"]),
    ],
)
def test_a_text_stands_behind_bars_with_its_own_line_breaks(
    text: str, width: int, lines: list[str]
) -> None:
    max_lines = 2 if text.startswith("one") else 9
    assert block(text, width=width, indent="", max_lines=max_lines) == lines


def test_a_cut_counts_what_is_missing() -> None:
    assert block("ab" * 50, width=80, indent="", limit=99)[-1] == "[cut: 1 more character]"


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


@pytest.mark.parametrize("width", [40, 400])
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
