"""Contexts from files: the shipped grid, and those that a user gives.

Knows the formats, and what is wrong with a line. Does not know what is measured under a context.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pytest_divergence.core.contexts import Context
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.safe_text import printable, safe_line
from pytest_divergence.core.setting_names import setting
from pytest_divergence.discovery.prompt_files import (
    DATA,
    json_value,
    listed,
    numbered_lines,
    text_of_file,
)
from pytest_divergence.models.fingerprints import text_digest

SHIPPED_CONTEXTS = DATA / "contexts.jsonl"
KEYS = ("name", "system", "messages", "before")
RULE = (
    "a context is an object with `system` (a text), `messages` (turns before the user's, each a "
    "role and its content) or `before` (text before the user's own), and a `name` if you like"
)


@dataclass(frozen=True)
class Contexts:
    """The contexts that a search looks at: the user's, then shipped ones."""

    given: tuple[Context, ...] = ()
    shipped: tuple[Context, ...] = ()
    sha256: str | None = None
    """Digest of the text of the user's file; None without one."""

    @property
    def all(self) -> tuple[Context, ...]:
        """Each context once; a shipped one that the user gives too is the user's."""
        found = {context.canonical: context for context in (*self.shipped, *self.given)}
        own = dict.fromkeys(context.canonical for context in self.given)
        return tuple(found[key] for key in dict.fromkeys([*own, *found]))

    @property
    def digest(self) -> str:
        """Digest of all that models read, in order."""
        return text_digest("\n".join(context.canonical for context in self.all))


def contexts_of(path: Path | None, num_shipped: int) -> Contexts:
    """Return the contexts of the user's file, if there is one, and the first shipped ones.

    Raises `SettingsError` for a file that cannot be read, and for a wrong line of it.
    """
    shipped = read_contexts(SHIPPED_CONTEXTS)[:num_shipped] if num_shipped else ()
    if path is None:
        return Contexts(shipped=shipped)
    text = text_of_file(path, setting("contexts"))
    return Contexts(_contexts_in(text, path), shipped, text_digest(text))


def read_contexts(path: Path) -> tuple[Context, ...]:
    """Read a file of contexts: JSON Lines, or else text with one system text a line.

    Raises `SettingsError` as `file:line: reason` for a bad line, and for a file without contexts.
    """
    return _contexts_in(text_of_file(path, setting("contexts")), path)


def _contexts_in(text: str, path: Path) -> tuple[Context, ...]:
    shown = printable(str(path))
    is_json = path.suffix in (".jsonl", ".json")
    found: dict[str, str] = {}
    contexts = []
    for number, line in numbered_lines(text):
        place = f"{shown}:{number}"
        values = json_value(line, place) if is_json else {"system": line.strip()}
        context = _context(values, place, f"context {number}")
        if (earlier := found.setdefault(context.canonical, place)) != place:
            raise SettingsError(f"{place}: the same context as {earlier}; leave one of them out")
        contexts.append(context)
    if not contexts:
        raise SettingsError(
            f"{shown} has no contexts; write one system text a line, or JSON Lines with `system` "
            "or `messages`"
        )
    return tuple(contexts)


def _context(values: Any, place: str, name: str) -> Context:
    if not isinstance(values, dict):
        raise SettingsError(f"{place}: {RULE}; this is no object")
    if not values.keys() <= set(KEYS):
        raise SettingsError(f"{place}: {RULE}; this one has {listed(list(values))}")
    if "system" in values and "messages" in values:
        raise SettingsError(
            f"{place}: both `system` and `messages` are given; write the system text as the first "
            "of `messages`"
        )
    fields = {"name": name, **{key: values[key] for key in KEYS if key in values}}
    if "system" in fields:
        fields["messages"] = [{"role": "system", "content": fields.pop("system")}]
    try:
        return Context.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = first["msg"].removeprefix("Value error, ")
        is_ours = first["type"] == "value_error"
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"{place}: {reason}" if is_ours else f"{place}: {RULE}; {safe_line(where)}: {reason}"
        ) from error
