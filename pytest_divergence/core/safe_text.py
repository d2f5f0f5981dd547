"""Text from models and files, made harmless for terminals, CI logs and file names.

Every string that a model or a file supplied passes `safe` or `safe_line` before it is shown
anywhere but in JSON. Wrap lines before, never after: wrapping can move `::error` to a line start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from unicodedata import category, normalize

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories that do not show, or that move what does."""


def safe(text: str, limit: int = 2000) -> str:
    """`text` as a block of lines, each behind a visible mark; past `limit` characters it is cut.

    The mark is needed because a CI runner trims blanks and obeys `::error` at a line's start.
    """
    shown = _spelled(text[:limit].replace("\r\n", "\n"), keep="\n").split("\n")
    if len(text) > limit:
        shown.append(f"[cut: {_rest(text, limit)}]")
    return "\n".join("| " + line for line in shown)


def safe_line(text: str, limit: int = 200) -> str:
    """`text` in quotes, on one line, for the inside of a sentence; past `limit` it is cut."""
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
    """`text` as it leaves this package, line by line: whoever made it may have forgotten a name.

    Lines stay lines. What does not show is spelled out, and no line begins with a command that a
    CI runner obeys.
    """
    return "\n".join(map(_printable_line, text.split("\n")))


def printable_lines(lines: Iterable[str]) -> list[str]:
    """The same of lines, of which each stays one."""
    return [_printable_line(line) for line in lines]


def slug(text: str, limit: int = 24) -> str:
    """`text` as at most `limit` of `[a-z0-9-]`, not starting or ending with `-`; `p` if empty.

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
