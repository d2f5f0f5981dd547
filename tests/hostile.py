"""One text that means harm in every string of every record, and what no output may then hold.

Records are filled by walking their fields, so that a field which is added is covered by itself.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from unicodedata import category

from markdown_it import MarkdownIt
from pydantic import BaseModel, JsonValue

from pytest_divergence.core.cases import CATEGORY, Case
from pytest_divergence.core.safe_text import HIDDEN

ESCAPES = "\x1b[2J\x1b]8;;https://x.example\x07here\x1b]8;;\x07\x00\x7f\x85\x9b31m\u200b"
BIDI = "\u202edrow\u202c\u2066x\u2069\ufeff"
COMMANDS = "\n::error::x\r\n  ::add-mask::x\r::error::x\u2028::error::x\x0b::error::x ##[error]x"
MARKUP = "</script></style><img src=x onerror=alert(1)><b>x</b> &lt; {{ 7 * 7 }} [red]x[/red]"
TABLE = "\n| a | b | c |\n|---|---|---|\n|x| `y` ``z`` \\|\n```\n# x\n"
LINKS = "[x](https://x.example) ![i](x.png)"
LONG = "w" * 10_000
HOSTILE = f"::error::x {MARKUP}{ESCAPES}{BIDI}{COMMANDS}{TABLE}{LINKS}{LONG}"
HALF = "a\udcffb"
"""What a file's name may hold and a record cannot: half a character."""
SAFE_ID = "an-id"

Filled = TypeVar("Filled")


def filled(kind: type[Filled], /, **given: Any) -> Filled:
    """A record of a kind, model or dataclass, with that text in each string that takes any."""
    if issubclass(kind, BaseModel):
        parts: dict[str, Any] = {
            name: _matching(field.metadata) or _value(field.annotation)
            for name, field in kind.model_fields.items()
            if name != "schema_version"
        }
        if issubclass(kind, Case):
            del parts["id"], parts["messages"]
            parts["metadata"] = {CATEGORY: HOSTILE, **parts["metadata"]}
    else:
        hints = get_type_hints(kind, include_extras=True)
        parts = {field.name: _value(hints[field.name]) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{**parts, **given})


def _value(kind: Any) -> Any:
    if isinstance(kind, type(JsonValue)) or kind is JsonValue:
        return {HOSTILE: [HOSTILE]}
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _matching(parts[1:]) or _value(parts[0])
    if origin is Literal:
        return parts[0]
    if origin in (Union, types.UnionType):
        return HOSTILE if str in parts else _value(parts[0])
    if kind is str:
        return HOSTILE
    if kind is bool:
        return True
    if kind is int:
        return 1
    if kind is float:
        return 0.5
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {_value(parts[0]): _value(parts[1])}
    if origin is tuple:
        return tuple(_value(one) for one in parts if one is not Ellipsis)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return [_value(parts[0])]
    return filled(kind)


def _matching(rules: Sequence[object]) -> str | None:
    """A string for a field that is held to a pattern, such as that of an id; None: it is not."""
    pattern = re.search("pattern='([^']*)'", repr(rules))
    if pattern is None:
        return None
    return next(one for one in (SAFE_ID, "full", "0" * 16) if re.search(pattern[1], one))


def hidden_in(text: str) -> set[str]:
    """The characters that do not show, or move what does."""
    return {f"U+{ord(one):04X}" for one in {*text} - {"\n"} if category(one) in HIDDEN}


def faults_in(text: str, *, commands: Sequence[str] = ()) -> list[str]:
    """What is live in a text: hidden characters, and lines that a CI runner obeys."""
    lines = [line for line in text.split("\n") if line not in commands]
    obeyed = [line[:80] for line in lines if line.strip().startswith("::") or "##[" in line]
    return [*sorted(hidden_in(text)), *obeyed]


def faults_in_markdown(text: str) -> list[str]:
    """What of a page is not ours: elements, links, images, and cells too many or too few."""
    found = faults_in(text)
    width = 0
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(text):
        children = token.children or []
        for one in [token, *children]:
            if one.type.startswith("html") or one.type == "image":
                found.append(f"{one.type}: {one.content[:80]}")
            link = one.attrs.get("href") if one.type == "link_open" else None
            if link not in (None, "report.html", "report.json"):
                found.append(f"link: {link}")
        if token.type in ("table_open", "tr_open") and token.map is not None:
            (first, last), lines = token.map, text.split("\n")
            for line in lines[first:last]:
                cells = len(re.findall(r"(?<!\\)\|", line))
                width = cells if token.type == "table_open" and line == lines[first] else width
                if cells != width:
                    found.append(f"{cells} and not {width} bars: {line[:80]}")
        if token.type == "inline" and re.match(r"\|.*\|", token.content):
            found.append(f"a row of no table: {token.content[:80]}")
    return found


class Elements(HTMLParser):
    """The elements of a page, with the names of their attributes, and the text of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.scripts: list[str] = []
        self._is_script = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_script = tag in ("script", "style")
        self.found |= {tag, *(f"{tag}.{name}" for name, _ in attrs)}

    def handle_endtag(self, tag: str) -> None:
        self._is_script = False

    def handle_data(self, data: str) -> None:
        if self._is_script:
            self.scripts.append(data)
