"""No list of words or phrases decides what is content: it would hold the manners of one language.

Whether the words of an answer matter is measured on the reference, whatever they are.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_divergence
from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.discovery.behaviours.traits import THOUGHT_TRAITS, TRAITS

PACKAGE = Path(pytest_divergence.__file__).parent
BEHAVIOURS = PACKAGE / "discovery" / "behaviours"
DECIDING = (
    PACKAGE / "core" / "behaviours.py",
    BEHAVIOURS / "descriptions.py",
    BEHAVIOURS / "surprise.py",
    *sorted(BEHAVIOURS.glob("content*.py")),
)
"""Files that have a say in whether a behaviour is content, breadth and gate included."""
KEYS = {*Behaviour.model_fields, *TRAITS, *THOUGHT_TRAITS}


def words_listed(source: str) -> list[list[str]]:
    """Collections and patterns that hold words, but for keys, choices and names of parameters."""
    tree = ast.parse(source)
    names = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    choices = {
        text
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal"
        for text in strings_in(node.slice)
    }
    found = []
    for node in ast.walk(tree):
        texts = [text for text in texts_of(node) if text not in KEYS | names | choices]
        words = [text for text in texts if any(map(str.isalpha, text))]
        if len(words) > (0 if is_pattern(node) else 1):
            found.append(words)
    return found


def texts_of(node: ast.AST) -> Iterator[str]:
    """The strings that a node collects."""
    if isinstance(node, (ast.List, ast.Set, ast.Tuple, ast.Dict)):
        parts = [*node.keys, *node.values] if isinstance(node, ast.Dict) else node.elts
        for part in parts:
            if isinstance(part, ast.Constant):
                yield from strings_in(part)
    elif is_pattern(node):
        for text in strings_in(node):
            yield from re.findall(r"[^\W\d_]{2,}", re.sub(r"\\.", " ", text))
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("split", "splitlines")
    ):
        yield from (word for text in strings_in(node.func.value) for word in text.split())


def is_pattern(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("re.", "regex."))


def strings_in(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


@pytest.mark.parametrize("path", DECIDING, ids=lambda path: path.stem)
def test_no_list_of_words_decides_what_is_content(path: Path) -> None:
    assert words_listed(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        'POLITE = ("Sure", "Of course")',
        'POLITE = ["I\'m sorry, but", "As an AI"]',
        'POLITE = frozenset({"sure thing", "of course"})',
        'POLITE = {"Yes,": False, "Sure,": False}',
        'POLITE = "yes sure okay".split()',
        'POLITE = re.compile(r"^(sure|of course)\\b", re.IGNORECASE)',
        'def is_polite(text): return text.startswith(("Yes", "Sure"))',
    ],
)
def test_a_list_that_slips_in_is_seen(line: str) -> None:
    assert len(words_listed(f"{DECIDING[0].read_text('utf-8')}\n\n{line}\n")) == 1
