"""Text from models and files, made harmless for terminals, CI logs and file names.

Every string that a model or a file supplied passes `safe` or `safe_line` before it is shown
anywhere but in JSON. Wrap lines before, never after: wrapping can move `::error` to a line start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from unicodedata import category, normalize

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories of characters that are invisible, or that move visible ones."""


def safe(text: str, limit: int = 2000) -> str:
    """Return `text` as lines, each after a visible mark; it is cut after `limit` characters.

    The mark is needed because a CI runner trims blanks and obeys `::error` at a line's start.
    """
    shown = _spelled(text[:limit].replace("\r\n", "\n"), keep="\n").split("\n")
    if len(text) > limit:
        shown.append(f"[cut: {_rest(text, limit)}]")
    return "\n".join("| " + line for line in shown)


def safe_line(text: str, limit: int = 200) -> str:
    """Return `text` in quotes, on one line, for the inside of a sentence, cut after `limit`."""
    return '"' + visible(text[:limit]) + '"' + _cut(text, limit)


def visible(text: str, limit: int | None = None) -> str:
    """Return `text` on one line with its hidden characters shown, without quotes.

    Nothing is cut unless there is a `limit`.
    """
    return _spelled(text[:limit], keep="") + ("" if limit is None else _cut(text, limit))


def public_value(value: str, limit: int = 200) -> str:
    """Return what a user gave on one line; a URL, which may hold a password, is only named."""
    return "[a URL]" if "://" in value else visible(value, limit)


def printable(text: str) -> str:
    """Return `text` made safe to print, line by line, in case a name in it was missed earlier.

    Lines stay lines. Invisible characters are spelled out, and no line begins with a command that a
    CI runner obeys.
    """
    return "\n".join(map(_printable_line, text.split("\n")))


def printable_lines(lines: Iterable[str]) -> list[str]:
    """Return lines made safe to print, as `printable` does; each stays one line."""
    return [_printable_line(line) for line in lines]


def slug(text: str, limit: int = 24) -> str:
    """Return `text` as at most `limit` of `[a-z0-9-]`, with no `-` at either end; `p` if empty.

    Accents are dropped, other letters become `-`. Uses only what no Unicode version may change,
    because ids are built from it.
    """
    plain = text if text.isascii() else re.sub("[\u0300-\u036f]", "", normalize("NFD", text))
    words = re.sub("[^A-Za-z0-9]+", "-", plain).strip("-").lower()
    return words[:limit].rstrip("-") or "p"


def _spelled(text: str, keep: str) -> str:
    if text.isprintable():
        return text.replace("##[", "#\\#[")
    shown = (c if c in keep or category(c) not in HIDDEN else f"\\u{{{ord(c):x}}}" for c in text)
    return "".join(shown).replace("##[", "#\\#[")


def _printable_line(line: str) -> str:
    shown = visible(line)
    start = len(shown) - len(shown.lstrip())
    return (
        f"{shown[:start]}\\u{{3a}}{shown[start + 1 :]}" if shown.startswith("::", start) else shown
    )


def _cut(text: str, limit: int) -> str:
    return f" [cut: {_rest(text, limit)}]" if len(text) > limit else ""


def _rest(text: str, limit: int) -> str:
    more = len(text) - limit
    return f"{more:,} more character{'s' if more > 1 else ''}"
