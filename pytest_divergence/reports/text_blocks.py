"""Model text in a terminal: blocks that fit its width, and pieces short enough for a sentence.

Lines are wrapped on the raw text, measured as they will look, and only then made safe: wrapping
afterwards could move `::error` to the start of a line, where a CI runner obeys it.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator

from rich.cells import cell_len

from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import safe, visible

WIDTH = 80
"""Columns of a terminal."""
PAGE_WIDTH = 100
"""Columns of a block in Markdown, so that none needs scrolling."""
MARK = len("| ")


def block(
    text: str, *, width: int, indent: str, limit: int = 2000, max_lines: int = 40
) -> list[str]:
    """`text` behind bars, in lines of at most `width` columns; says how much it left out."""
    text = text.replace("\r\n", "\n")
    if not text:
        return [indent + "(empty)"]
    pieces = list(_pieces(text[:limit], max(8, width - len(indent) - MARK)))[:max_lines]
    raw = "\n".join(piece.rstrip(" \n") for piece in pieces)
    lines = [indent + line.rstrip(" ") for line in safe(raw, len(raw) + 1).split("\n")]
    left_out = len(text) - sum(map(len, pieces))
    if left_out:
        cut = f"{indent}[cut: {number_of(left_out, 'more character')}]"
        lines.append(cut if columns(cut) <= width else f"{indent}[cut: {left_out:,}]")
    return lines


def fenced(text: str) -> list[str]:
    """`text` as a block of Markdown: each line is behind a bar, so none can close the fence."""
    return ["```text", *block(text, width=PAGE_WIDTH, indent=""), "```", ""]


def quoted(text: str, width: int) -> str:
    """`text` in quotes on one line of at most `width` columns; an ellipsis after the quotes: cut.

    Put nothing that wraps around it.
    """
    kept = _fitting(text, max(1, width - 3))
    return f'"{visible(kept)}"' + ("" if kept == text else "…")


def within(text: str, width: int) -> str:
    """`text` without quotes, for a name, in at most `width` columns; an ellipsis: it was cut."""
    kept = _fitting(text, max(1, width - 1))
    return visible(kept) + ("" if kept == text else "…")


def sentence(text: str, *, width: int, indent: str = "") -> list[str]:
    """Our own words (never a model's), wrapped."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def command(label: str, line: str, *, width: int, indent: str) -> list[str]:
    """A shell command that can be copied as it stands, continued by `\\` where it is too long."""
    start = f"{indent}{label}: "
    if columns(start + visible(line)) <= width:
        return [start + visible(line)]
    lines = [f"{indent}{label}:"]
    words = [visible(group) for group in _groups(line)]
    for group in words:
        fits = len(lines) > 1 and columns(f"{lines[-1]} {group} \\") <= width
        if fits:
            lines[-1] += f" {group}"
        else:
            lines.append(f"{indent}  {'  ' if len(lines) > 1 else ''}{group}")
    return [lines[0], *(f"{each} \\" for each in lines[1:-1]), lines[-1]]


def columns(text: str) -> int:
    """How wide `text` is in a terminal."""
    return cell_len(text)


def _fitting(text: str, room: int) -> str:
    """The start of `text` that takes at most `room` columns once it is visible."""
    kept = text[:room]
    while columns(visible(kept)) > room:
        kept = kept[:-1]
    return kept


def _pieces(text: str, width: int) -> Iterator[str]:
    """`text` cut into lines no wider than `width` once visible; joined, they are `text` again."""
    line = ""
    for word in re.findall(r"\n| +|[^ \n]+", text):
        if word == "\n":
            yield line + word
            line = ""
        elif word.startswith(" ") or columns(visible(line + word)) <= width:
            line += word
        else:
            if line.strip(" "):
                yield line
                line = ""
            *whole, line = _split(line + word, width)
            yield from whole
    if line:
        yield line


def _split(word: str, width: int) -> Iterator[str]:
    part = ""
    for character in word:
        if part and columns(visible(part + character)) > width:
            yield part
            part = ""
        part += character
    yield part


def _groups(line: str) -> list[str]:
    """The words of a command, each option with its value; the program with its first argument."""

    def goes_on(group: list[str]) -> bool:
        return len(group) == 1 and (group is groups[0] or group[0].startswith("-"))

    try:
        words = shlex.split(line)
    except ValueError:  # not ours to repair
        return [line]
    groups: list[list[str]] = []
    for word in words:
        if not groups or word.startswith("-") or not goes_on(groups[-1]):
            groups.append([])
        groups[-1].append(word)
    return [shlex.join(group) for group in groups]
