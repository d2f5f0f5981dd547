"""Blocks of code in Markdown pages, and how a reader would run them.

A page is one story: its blocks run in order, in one folder. pytest and `pytest-divergence` run in
this process, where torch is loaded already; everything else runs in a shell. An own few lines and
no library for examples in documentation: those run single Python snippets, and a block here is a
command with a session of pytest behind it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
COMMENT = re.compile(r"<!-- (not run|exit code): (.+?) -->\s*\Z")
IN_FILE = re.compile(r"In `([\w./-]+\.divergence\.jsonl)`:\s*\Z")
FILL_IN = re.compile(r"^\$? ?pytest.*[^ ]…", re.MULTILINE)
TO_FILL_IN = "a reader fills in what … stands for"
RUNNABLE = ("python", "console", "bash", "ini", "json")


@dataclass(frozen=True)
class Block:
    """One block of code that a reader may run or write to a file."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None
    """Why a test does not run it."""
    exit_code: int
    """What the last command of the block ends with."""
    file: str | None = None
    """The suite that the sentence before the block says it stands in."""

    def commands(self) -> Iterator[str]:
        """Each command of a console block: lines after `$ `, or all where none begins so."""
        text = re.sub(r"\\\n(?:> )?\s*", "", self.text)
        lines = text.splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            yield from (part.strip() for part in line.split(" && ") if part.strip())


def blocks_of(path: Path, root: Path) -> list[Block]:
    """The runnable blocks of a page, in order."""
    text = path.read_text("utf-8")
    found = []
    for match in FENCE.finditer(text):
        if match["language"] not in RUNNABLE:
            continue
        comment = COMMENT.search(text, 0, match.start())
        marks = {comment[1]: comment[2]} if comment else {}
        indent = len(match["indent"])
        found.append(
            Block(
                page=path.relative_to(root).as_posix(),
                line=text.count("\n", 0, match.start()) + 1,
                language=match["language"],
                text="\n".join(line[indent:] for line in match["text"].splitlines()) + "\n",
                not_run=marks.get("not run")
                or (TO_FILL_IN if FILL_IN.search(match["text"]) else None),
                exit_code=int(marks.get("exit code", 0)),
                file=before[1] if (before := IN_FILE.search(text, 0, match.start())) else None,
            )
        )
    return found


def words_of(command: str) -> tuple[dict[str, str], list[str]]:
    """The environment that a command sets before it, and its words without comments."""
    words = shlex.split(command, comments=True)
    environment = {}
    while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    return environment, words
