"""Pieces of a Markdown page; whatever passes through them stays plain text.

Untrusted text goes into a fence or a code span, where Markdown and HTML have no effect and no
address becomes a link. Knows Markdown; does not know what a page says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pytest_divergence.core.safe_text import printable_lines, visible

MEANS_SOMETHING = re.compile(r"[`*\[\]\\|&~#@]|<(?! )|://|www\.", re.IGNORECASE)
"""Characters with a meaning in Markdown or on GitHub."""


def page(lines: Iterable[str]) -> str:
    """The whole text; each line stays one line, and none is a command for a CI runner."""
    return "\n".join(printable_lines(lines)).rstrip("\n") + "\n"


def plain(text: str) -> str:
    """Our own words, as code if a name in them has a meaning in Markdown."""
    return code(text) if MEANS_SOMETHING.search(visible(text)) else visible(text)


def code(text: str, limit: int = 500) -> str:
    """A code span; its fence is longer than any run of backticks inside."""
    shown = (visible(text[:limit]) + ("…" if len(text) > limit else "")) or "(empty)"
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if "`" in shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def table(titles: Sequence[str], rule: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table with a blank line after it; `rule` is the line under its titles.

    Cells are pieces already. A bar in a cell becomes a broken bar: no escape works everywhere.
    """
    for cells in (titles, None, *rows):
        yield rule if cells is None else f"|{'|'.join(cell.replace('|', '¦') for cell in cells)}|"
    yield ""
