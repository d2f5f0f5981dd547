"""The public names of the package, and the types that their signatures speak of, for autodoc."""

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
    """A page that autodoc fills."""
    parts = [
        "# Python\n\nThe names that `pytest_divergence` exports; all are resolved on first use, so "
        "that importing the package loads nothing heavy.\n"
    ]
    for name in pytest_divergence.__all__:
        parts.append(f"## {name}\n\n{_directive(f'pytest_divergence.{name}')}")
    parts.append("## Types in these signatures\n\nWhat the names above take and return.\n")
    parts += [_directive(name) for name in spoken_of()]
    return "\n".join(parts)


def spoken_of() -> list[str]:
    """Classes of ours that signatures of the public names mention, by dotted name."""
    public = {getattr(pytest_divergence, name) for name in pytest_divergence.__all__}
    found = {one for value in public for one in _mentioned(value)} - public
    return sorted(f"{one.__module__}.{one.__qualname__}" for one in found)


def _mentioned(value: type) -> Iterator[type]:
    functions: list[Any] = [value]
    if inspect.isclass(value):
        members = (getattr(value, name) for name in vars(value) if not name.startswith("_"))
        functions += [one for one in members if inspect.isfunction(one) or inspect.ismethod(one)]
    there = _names_in(value.__module__)
    for function in functions:
        annotations = " ".join(str(one) for one in inspect.get_annotations(function).values())
        for name in set(re.findall(r"[A-Z]\w+", annotations)) & there.keys():
            one = getattr(import_module(there[name]), name)
            if inspect.isclass(one) and one.__module__.startswith("pytest_divergence."):
                yield one


def _names_in(module: str) -> dict[str, str]:
    """Where each name comes from that a module imports from us or defines: those of types too."""
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
