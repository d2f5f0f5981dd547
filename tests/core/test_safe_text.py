from __future__ import annotations

import re
from unicodedata import category

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_divergence.core.safe_text import HIDDEN, safe, safe_line, slug

HOSTILE = ["\x1b[31m", "\x00", "::error ::x", "##[group]", "\r", "\r\n", "\u202e", "\u2028", "\x85"]
PIECES = [*HOSTILE, "\n", "#", "[", " ", "word", "\ud800", "\ue000", "\u0378", '"', "é"]
any_text = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3))).map("".join)


@settings(deadline=None, max_examples=200)
@given(any_text, st.integers(0, 60))
@example("\r\n::error ::gone", 60)
def test_nothing_of_a_safe_text_is_live(text: str, limit: int) -> None:
    shown, lines = safe_line(text, limit), safe(text, limit).split("\n")

    assert shown.startswith('"')
    assert all(line.startswith("| ") for line in lines)
    for line in (shown, *lines):
        assert "##[" not in line
        assert not {category(character) for character in line} & HIDDEN


def test_text_is_shown_as_it_is_and_what_does_not_show_is_spelled_out() -> None:
    assert safe("How do I tie a knot?\nNaïvely…") == "| How do I tie a knot?\n| Naïvely…"
    assert safe_line("How do I tie a knot?") == '"How do I tie a knot?"'
    assert safe("a\x1b[31mb\r\nc") == "| a\\u{1b}[31mb\n| c"
    assert safe_line("a\nb\u202ec") == '"a\\u{a}b\\u{202e}c"'
    assert safe_line("##[group]") == '"#\\#[group]"'


def test_cut_text_says_how_much_is_missing() -> None:
    assert safe("abcdef", limit=5) == "| abcde\n| [cut: 1 more character]"
    assert safe_line("a" * 2005, limit=3) == '"aaa" [cut: 2,002 more characters]'
    assert "cut" not in safe("abcde", limit=5) + safe_line("abcde", limit=5)


@settings(deadline=None, max_examples=200)
@given(any_text, st.integers(1, 40))
def test_a_slug_fits_a_file_name_a_test_id_and_html(text: str, limit: int) -> None:
    assert re.fullmatch("[a-z0-9]([a-z0-9-]*[a-z0-9])?", slug(text, limit))
    assert len(slug(text, limit)) <= limit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How do I tie a knot?", "how-do-i-tie-a-knot"),
        ("Café in Zürich", "cafe-in-zurich"),
        ("", "p"),
        ("日本語", "p"),
        ("  --Yes!  ", "yes"),
        ("\u212aelvin sign \U0001ccd6", "kelvin-sign"),
        ("one two three four five six", "one-two-three-four-five"),
    ],
)
def test_a_slug_reads_like_the_text(text: str, expected: str) -> None:
    assert slug(text) == expected
