"""Pieces of a page in Markdown: whatever passes through them is text, and nothing else.

A stranger's text stands in a fence or in a code span, where Markdown and HTML mean nothing and no
address becomes a link. Knows Markdown; does not know what a page says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pytest_divergence.core.safe_text import printable_lines, visible

MEANS_SOMETHING = re.compile(r"[`*\[\]\\|&~#@]|<(?! )|://|www\.", re.IGNORECASE)
"""What Markdown or GitHub would take for more than a character."""


def page(lines: Iterable[str]) -> str:
    """The whole text; a line stays one line, and commands no runner."""
    return "\n".join(printable_lines(lines)).rstrip("\n") + "\n"


def plain(text: str) -> str:
    """Our own words, which may hold a stranger's name: as they are, else as code."""
    return code(text) if MEANS_SOMETHING.search(visible(text)) else visible(text)


def code(text: str, limit: int = 500) -> str:
    """A code span; its fence is longer than any run of backticks inside."""
    shown = (visible(text[:limit]) + ("…" if len(text) > limit else "")) or "(empty)"
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if "`" in shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def table(titles: Sequence[str], rule: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table with a blank line behind it; `rule` is the line under its titles.

    Cells are pieces already. A bar in one is broken: no other way to write it holds everywhere.
    """
    for cells in (titles, None, *rows):
        yield rule if cells is None else f"|{'|'.join(one.replace('|', '¦') for one in cells)}|"
    yield ""
