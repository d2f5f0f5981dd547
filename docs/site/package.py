"""Contents of the package: every module by its first sentence, and every data file."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest_divergence
from docs.site.markdown import code, table

PACKAGE = Path(pytest_divergence.__file__).parent
LAYERS = {
    "": "Beside the folders",
    "cli": "Commands",
    "plugin": "The pytest plugin",
    "reports": "Views of a run",
    "reports/page": "The page of a report",
    "discovery": "Searching",
    "discovery/strategies": "Strategies",
    "discovery/soft_prompts": "Soft prompts",
    "discovery/behaviours": "Behaviours",
    "discovery/contexts": "Contexts",
    "discovery/engines": "Engines",
    "scoring": "Measuring",
    "exports": "Cases for other tools",
    "models": "Models",
    "core": "Plain values and files",
    "data": "Shipped data",
    "data/travel-advert": "The demo's candidate",
    "schemas": "JSON Schemas",
}
"""Folders of the package, from the top to the bottom of its layers."""
DATA = {
    "py.typed": "tells type checkers that the package is typed",
    "data/contexts.jsonl": "system texts, earlier turns and words under which controls are asked",
    "data/controls.jsonl": "ordinary prompts that measure a pair's typical shift; never seeds",
    "data/seeds.jsonl": "ordinary prompts that a search starts from",
    "data/travel-advert/README.md": "what the adapter was trained to do, and how",
    "data/travel-advert/adapter_config.json": "settings of the adapter, for PEFT",
    "data/travel-advert/adapter_model.safetensors": "weights of the adapter",
    "data/travel-advert/truth.json": "what held-out prompts show; no search reads it",
}
"""Files that cannot hold their own description."""


def package_page() -> str:
    """Return the page of the package's files, by folder."""
    parts = [
        "# Files of the package\n\nImports point one way: the commands use the pytest plugin, the "
        "plugin uses discovery, reports and exports, discovery uses scoring, scoring uses models, "
        "and all of them use core; reports and exports use only core.\n"
    ]
    for folder, title in folders().items():
        rows = [(code(name), meaning) for name, meaning in files_in(folder)]
        parts.append(f"## {title}\n\n{table(('file', 'what it holds'), rows)}")
    return "\n".join(parts)


def folders() -> dict[str, str]:
    """Return every folder of the package with its title: the layers in order, then others."""
    there = (path for path in sorted(PACKAGE.rglob("*")) if path.is_dir())
    names = [path.relative_to(PACKAGE).as_posix() for path in there if path.name != "__pycache__"]
    return LAYERS | {name: LAYERS.get(name, name.capitalize()) for name in names}


def files_in(folder: str) -> Iterator[tuple[str, str]]:
    """Yield the path, relative to the package, and the meaning of each file in a folder."""
    for path in sorted((PACKAGE / folder).iterdir()):
        if path.is_file() and path.suffix not in (".pyc", ".so"):
            yield path.relative_to(PACKAGE).as_posix(), meaning(path)


def meaning(path: Path) -> str:
    """Return a file's first sentence about itself. Raises ValueError if it has none."""
    name = path.relative_to(PACKAGE).as_posix()
    if name in DATA:
        return DATA[name]
    text = path.read_text("utf-8")
    if path.suffix == ".json":
        sentence = json.loads(text)["description"].split("\n\n")[0]
    elif path.suffix == ".py":
        sentence = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
    else:
        comment = re.search(
            r"\A(?:\"use strict\";\n)?((?:{#.*?#}|/\*.*?\*/|(?:(?:#|//)[^\n]*\n)+))", text, re.S
        )
        sentence = (
            re.sub(r"^(# ?|// ?|{# ?|/\* ?)|( ?-?#}| ?\*/)$", "", comment[1], flags=re.M)
            if comment
            else ""
        )
    if not sentence.strip():
        raise ValueError(f"{name} begins with no docstring or comment that says what it is")
    return " ".join(sentence.split())


def module_name(path: Path) -> str:
    """Return the dotted name of a module of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")
