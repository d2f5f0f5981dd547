"""Imports point one way, and nothing heavy starts before it is asked for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_divergence
from pytest_divergence.plugin.options import BY_FIELD

PACKAGE = Path(pytest_divergence.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
DOOR = PACKAGE / "__init__.py"
"""Names every layer, and imports none until asked."""
FRONT = "front"
"""The modules beside the folders: plugin, options, collection and their like."""
FRONT_FOLDERS = {"commands"}
MAY_IMPORT = {
    FRONT: {FRONT, "reports", "exports", "discovery", "scoring", "models", "core"},
    "reports": {"reports", "core"},
    "exports": {"exports", "core"},
    "discovery": {"discovery", "scoring", "models", "core"},
    "scoring": {"scoring", "models", "core"},
    "models": {"models", "core"},
    "core": {"core"},
}
BELOW_THE_EDGE = sorted(
    path
    for layer in MAY_IMPORT
    for path in (PACKAGE / layer).rglob("*")
    if path.suffix in (".py", ".jinja", ".js", ".css")
)
"""All that must not know how a user of pytest or of the command gives a setting."""
HEAVY = ("torch", "transformers", "numpy", "scipy", "peft", "safetensors", "huggingface_hub")
NOT_IN_CORE = {*HEAVY, "tokenizers", "pytest", "_pytest", "pluggy"}


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def layer_of(module: str) -> str:
    """The layer of a dotted name inside the package."""
    first = module.split(".")[1] if "." in module else ""
    return first if first in MAY_IMPORT else FRONT


def imported(path: Path) -> Iterator[str]:
    """Every name that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} imports relatively"
            yield node.module or ""
            # `from pytest_divergence import core` names a layer too
            if node.module == "pytest_divergence":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of_file(path: Path) -> str:
    folder = path.relative_to(PACKAGE).parts[0]
    return folder if folder in MAY_IMPORT else FRONT


@pytest.mark.parametrize("path", [path for path in MODULES if path != DOOR], ids=name_of)
def test_imports_point_down(path: Path) -> None:
    here = layer_of_file(path)
    ours = [name for name in imported(path) if name.split(".")[0] == "pytest_divergence"]
    exports = {f"pytest_divergence.{name}" for name in pytest_divergence.__all__}
    wrong = [
        name
        for name in ours
        if name not in ("pytest_divergence", "pytest_divergence.__version__")
        and name not in exports
        and layer_of(name) not in MAY_IMPORT[here]
    ]
    assert not wrong, f"{here} must not import {wrong}"
    if here != FRONT:
        assert not exports & set(ours), "inside the package, import from the module that owns it"


def test_every_folder_is_a_layer() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}

    assert folders == set(MAY_IMPORT) - {FRONT} | FRONT_FOLDERS


@pytest.mark.parametrize("path", BELOW_THE_EDGE, ids=name_of)
def test_only_the_edge_knows_options(path: Path) -> None:
    text = path.read_text("utf-8")

    assert not re.findall(r"--(?:divergence|model)-[\w-]*", text), "name it by setting(FIELD)"
    assert not set(re.findall(r"\bsetting\(['\"](\w+)['\"]\)", text)) - set(BY_FIELD)


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").rglob("*.py")), ids=name_of)
def test_core_knows_neither_models_nor_pytest(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & NOT_IN_CORE


@pytest.mark.parametrize("path", sorted((PACKAGE / "reports").rglob("*.py")), ids=name_of)
def test_reports_need_no_model(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & set(HEAVY)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_owns(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))

    assert docstring, "a module begins with a docstring"
    assert docstring.splitlines()[0].strip()


def loaded_after(statement: str) -> set[str]:
    """Top-level packages in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{n.split('.')[0] for n in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(run.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = loaded_after("import pytest_divergence, pytest_divergence.plugin.hookspecs")

    assert not loaded & {*HEAVY, "pydantic", "jinja2", "rich", "jsonlines"}


def test_the_core_imports_nothing_heavy() -> None:
    modules = [f"pytest_divergence.core.{path.stem}" for path in (PACKAGE / "core").glob("[a-z]*")]

    assert not loaded_after(f"import {', '.join(modules)}") & NOT_IN_CORE


def test_every_public_name_resolves() -> None:
    for name in pytest_divergence.__all__:
        assert getattr(pytest_divergence, name).__module__.startswith("pytest_divergence.")


def test_public_names_are_sorted_and_listed() -> None:
    assert pytest_divergence.__all__ == sorted(pytest_divergence.__all__)
    assert set(pytest_divergence.__all__) <= set(dir(pytest_divergence))


def test_an_unknown_public_name_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = pytest_divergence.nothing
