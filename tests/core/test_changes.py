"""What differs between two records is said in words, once for all of them."""

from __future__ import annotations

from pytest_divergence.core.changes import describe_changes


def test_only_what_has_changed_is_named_as_what_it_is() -> None:
    assert describe_changes({"the dtype": ("float32", "bfloat16"), "the seed": (0, 0)}) == [
        'the dtype (was "float32", now "bfloat16")'
    ]
    assert describe_changes({"the template": (None, "e" * 64), "the rate": (0.1, 0.5)}) == [
        "the template (was none, now eeeeeeee…)",
        "the rate (was 0.1, now 0.5)",
    ]


def test_what_a_user_wrote_is_quoted_and_shows_its_hidden_characters() -> None:
    said = describe_changes({"it": ("a\n::error::b", {"date": "\u202e"})})
    assert said == ["it (was \"a\\u{a}::error::b\", now \"{'date': '\\u202e'}\")"]
