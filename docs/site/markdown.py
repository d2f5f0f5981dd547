"""Small pieces of Markdown: tables, code, and docstrings of attributes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sphinx.pycode import ModuleAnalyzer


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with one line per row."""
    lines = [_row(head), _row(["---"] * len(head)), *map(_row, rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def code(text: str) -> str:
    """Return text as inline code."""
    return f"`{text}`" if text else ""


def block(text: str, language: str = "text") -> str:
    """Return text as a block of code."""
    return f"```{language}\n{text.rstrip()}\n```\n"


def attribute_docs(of: type) -> dict[str, str]:
    """Return the docstring below each attribute of a class and its bases, by name."""
    found: dict[str, str] = {}
    for base in reversed(of.__mro__):
        if base.__module__.startswith("pytest_divergence"):
            docs = ModuleAnalyzer.for_module(base.__module__).find_attr_docs()
            for (owner, name), lines in docs.items():
                if owner == base.__qualname__:
                    found[name] = " ".join(lines).strip()
    return found


def module_docs(name: str) -> dict[str, str]:
    """Return the docstring below each constant of a module, by name."""
    docs = ModuleAnalyzer.for_module(name).find_attr_docs()
    return {
        attribute: " ".join(lines).strip()
        for (owner, attribute), lines in docs.items()
        if not owner
    }
