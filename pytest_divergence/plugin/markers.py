"""Arguments of the marker `divergence`, checked: a misspelt one would check nothing.

Does not know what they are for. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import pytest


def _is_bound(value: Any) -> bool:
    return isinstance(value, Real) and 0 < float(value) < float("inf")


def _are_texts(value: Any) -> bool:
    return isinstance(value, (tuple, list, set)) and all(isinstance(text, str) for text in value)


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_kl": (_is_bound, "must be a positive number of nats per token"),
    "models": (
        lambda value: _are_texts(value) and len(value) == 2 and not isinstance(value, set),
        "must name two models, reference and candidate",
    ),
    "behaviour": (lambda value: isinstance(value, str), "must be the id of a behaviour"),
    "limit": (
        lambda value: isinstance(value, int) and value >= 0,
        "must be a number of cases, 0 or more",
    ),
    "id": (
        lambda value: isinstance(value, str) or _are_texts(value),
        "must be the id of a case, or a list of them",
    ),
}
"""Each argument: whether a value is right, and the rule in words. None is as good as left out."""
KNOWN = f"it takes {', '.join(f'{key}=' for key in RULES)}"


def marker_arguments(node: pytest.Item) -> list[Mapping[str, Any]]:
    """Return the arguments of a test's `divergence` markers, the nearest first.

    Raises UsageError for one that the marker does not take, and for a wrong value.
    """
    found = []
    for mark in node.iter_markers("divergence"):
        for value in mark.args:
            raise _error(node, repr(value), f"has an argument without a name; {KNOWN}")
        for key, value in mark.kwargs.items():
            if key not in RULES:
                raise _error(node, f"{key}={value!r}", f"has an unknown argument; {KNOWN}")
            is_right, rule = RULES[key]
            if value is not None and not is_right(value):
                raise _error(node, f"{key}={value!r}", rule)
        found.append(mark.kwargs)
    return found


def _error(node: pytest.Item, given: str, fault: str) -> pytest.UsageError:
    return pytest.UsageError(f"{node.nodeid}: the marker divergence({given[:200]}) {fault}")
