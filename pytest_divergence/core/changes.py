"""What differs between two records of one kind, in words for the inside of a sentence."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_divergence.core.safe_text import safe_line


def describe_changes(values: Mapping[str, tuple[object, object]]) -> list[str]:
    """Return a phrase for each value that has changed, such as `the dtype (was "a", now "b")`.

    `values` holds each value before and after by its name.
    """
    return [
        f"{name} (was {_shown(before)}, now {_shown(after)})"
        for name, (before, after) in values.items()
        if before != after
    ]


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if not isinstance(value, str | Mapping | list):
        return str(value)
    text = str(value)
    is_digest = len(text) == 64 and text.isalnum()
    return f"{text[:8]}…" if is_digest else safe_line(text, 60)  # quotes mark what is redacted
