"""The public names of the package, and the types in their signatures, for autodoc."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from pydantic import BaseModel

import pytest_divergence


def api_page() -> str:
    """Return a page that autodoc fills."""
    parts = [
        "# Python\n\nThe names that `pytest_divergence` exports. They are resolved on first use, "
        "so importing the package loads nothing heavy.\n"
    ]
    for name in pytest_divergence.__all__:
        parts.append(f"## {name}\n\n{_directive(f'pytest_divergence.{name}')}")
    parts.append("## Types in these signatures\n\nTypes that the names above take and return.\n")
    parts += [_directive(name) for name in spoken_of()]
    return "\n".join(parts)


def spoken_of() -> list[str]:
    """Return our classes that signatures of the public names mention, by dotted name."""
    public = {getattr(pytest_divergence, name) for name in pytest_divergence.__all__}
    found = {mentioned for value in public for mentioned in _mentioned(value)} - public
    return sorted(f"{mentioned.__module__}.{mentioned.__qualname__}" for mentioned in found)


def _mentioned(value: type) -> Iterator[type]:
    functions: list[Any] = [value]
    if inspect.isclass(value):
        members = (getattr(value, name) for name in vars(value) if not name.startswith("_"))
        functions += [
            member for member in members if inspect.isfunction(member) or inspect.ismethod(member)
        ]
    there = _names_in(value.__module__)
    for function in functions:
        annotations = " ".join(map(str, inspect.get_annotations(function).values()))
        for name in set(re.findall(r"[A-Z]\w+", annotations)) & there.keys():
            mentioned = getattr(import_module(there[name]), name)
            if inspect.isclass(mentioned) and mentioned.__module__.startswith("pytest_divergence."):
                yield mentioned


def _names_in(module: str) -> dict[str, str]:
    """Return the source of each name, types too, that a module defines or imports from us."""
    found = dict.fromkeys(vars(sys.modules[module]), module)
    for node in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pytest_divergence"):
            found |= {alias.name: str(node.module) for alias in node.names}
    return found


def _directive(name: str) -> str:
    module, _, attribute = name.rpartition(".")
    value = getattr(import_module(module), attribute)
    kind, options = "autofunction", ""
    if inspect.isclass(value):
        kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
        options = "   :members:\n   :exclude-members: model_config\n"
        if issubclass(value, BaseModel):
            name += "(**keys)"  # its own would spell out how each key is checked
    return f"```{{eval-rst}}\n.. {kind}:: {name}\n{options}```\n"
