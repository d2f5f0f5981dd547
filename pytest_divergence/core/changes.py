"""What differs between two records of one kind, in words for the inside of a sentence."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_divergence.core.safe_text import safe_line, visible


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
    if not isinstance(value, str):
        return visible(str(value), 200)
    is_digest = len(value) == 64 and value.isalnum()
    return f"{value[:8]}…" if is_digest else safe_line(value, 60)
