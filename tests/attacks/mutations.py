"""Documents that are nearly right, and bytes that are not: for Hypothesis."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from typing import Any

from hypothesis import strategies as st

DEEP = "@deep@"
"""Stands for a value that is nested too deeply to be built here."""
TWICE = "@twice@"
"""A key that stands for one that is there already."""
ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    0.5,
    2**63,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "control",
    "x" * 5000,
    "\x1b[2J\x07\x00",
    "\n::error::x",
    "\u202e\u2028\U000e0041",
    "\ud800",
    "../../../etc/passwd",
    [],
    {},
    [[[[]]]],
    {"a": {"b": {"c": 1}}},
    ["x"] * 2000,
    {str(number): number for number in range(500)},
    DEEP,
)
"""Values that no key of any file is meant to have."""
NAMES = ("id", "input", "prompt", "messages", "kl", "__class__", "\x1b[2J", "", "x" * 3000, TWICE)
Place = tuple[Any, ...]


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """Where something stands in a document, itself first."""
    yield here
    parts: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else parts:
        yield from places(inner, (*here, key))


@st.composite
def documents(draw: st.DrawFn, real: Any) -> Any:
    """A real document, changed in one to three places."""
    whole = [copy.deepcopy(real)]
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(list(places(whole))[1:]))
        parent: Any = whole
        for key in place[:-1]:
            parent = parent[key]
        _change(draw, parent, place[-1])
        if not whole:
            whole = [None]
    return whole[0]


def _change(draw: st.DrawFn, parent: Any, key: Any) -> None:
    kind = draw(st.sampled_from(("odd", "any", "drop", "add", "again", "wrap")))
    if kind == "odd":
        parent[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
    elif kind == "any":
        parent[key] = draw(plain_values())
    elif kind == "drop":
        del parent[key]
    elif kind == "wrap":
        parent[key] = draw(st.sampled_from(([parent[key]], {"input": parent[key]})))
    elif isinstance(parent, dict):
        parent[draw(st.sampled_from(NAMES) | st.text(max_size=9))] = parent[key]
    else:
        parent.insert(key, copy.deepcopy(parent[key]) if kind == "again" else None)


def plain_values() -> st.SearchStrategy[Any]:
    """Any small JSON value; NaN and infinity too."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=6,
    )


def as_text(document: Any) -> str:
    """A document as JSON, with what no Python value can hold put in."""
    text = json.dumps(document, ensure_ascii=True)
    text = text.replace(f'"{DEEP}"', "[" * 50_000 + "]" * 50_000)
    return text.replace(f'"{TWICE}"', '"id"')


@st.composite
def damaged(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> bytes:
    """Bytes as they were, cut, flipped, doubled, or with others put in."""
    found = bytearray(draw(data))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        kind = draw(st.sampled_from(("cut", "head", "flip", "insert", "again", "zeros")))
        if kind == "cut":
            del found[at:]
        elif kind == "head":
            del found[:at]
        elif kind == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "insert":
            found[at:at] = draw(st.binary(max_size=8))
        elif kind == "again":
            found[at:at] = found[at : at + draw(st.integers(1, 200))]
        else:
            found[at : at + 4] = bytes(4)
    return bytes(found)


def json_files(*real: Any) -> st.SearchStrategy[bytes]:
    """Files of one JSON value each: near a real one, or of any bytes."""
    near = st.one_of(*(documents(one) for one in real)).map(as_text).map(str.encode)
    same = st.sampled_from([as_text(one).encode() for one in real])
    return st.one_of(near, damaged(same), damaged(near), st.binary(max_size=200))


def row_files(*real: Any) -> st.SearchStrategy[bytes]:
    """Files of one JSON value a line."""
    line = st.one_of(*(documents(one) for one in real)).map(as_text)
    same = st.sampled_from([as_text(one) for one in real])
    near = st.lists(st.one_of(line, same), min_size=1, max_size=3).map("\n".join).map(str.encode)
    whole = st.just(("\n".join(map(as_text, real)) + "\n").encode())
    return st.one_of(near, damaged(whole), damaged(near), st.binary(max_size=200))


def texts(*real: str) -> st.SearchStrategy[str]:
    """Short texts: near a real one, odd, or any."""
    near = damaged(st.sampled_from(real).map(str.encode)).map(
        lambda one: one.decode("utf-8", "replace")
    )
    odd = st.sampled_from([one for one in ODD if isinstance(one, str)])
    return st.one_of(st.sampled_from(real), near, odd, st.text(max_size=60))
