"""Imports point one way, and nothing heavy starts before it is asked for."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pytest_divergence
from pytest_divergence.plugin.options import BY_FIELD

PACKAGE = Path(pytest_divergence.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name != "data")
LAYERS = {
    "cli": {"plugin", "discovery", "reports", "exports", "scoring", "models", "core"},
    "plugin": {"discovery", "reports", "exports", "scoring", "models", "core"},
    "evaluator": {"discovery", "reports", "scoring", "models", "core"},
    "discovery": {"scoring", "models", "core"},
    "reports": {"core"},
    "exports": {"core"},
    "scoring": {"models", "core"},
    "models": {"core"},
    "core": set(),
}
"""What each folder may import besides itself; `evaluator` is a file."""
ROOT = {"__init__.py", "evaluator.py", "py.typed"}
DOORS = {"plugin/__init__.py", "cli/__init__.py"}
"""Where what is heavy is imported late, so that others need not."""
OPTIONAL = {"accelerate", "datasets", "gguf", "peft", "xdist"}
"""Imported late wherever they are used: a user may not have them."""
FIELD_TERMS = {
    "batching",
    "checkpointing",
    "decoding",
    "loading",
    "teacher_forcing",
    "training",
}
"""File names that end like a participle and are the field's own nouns."""
BELOW_THE_EDGE = sorted(
    path
    for layer in LAYERS.keys() - {"cli", "plugin", "evaluator"}
    for path in (PACKAGE / layer).rglob("*")
    if path.suffix in (".py", ".jinja", ".js", ".css")
)
"""All that must not know how a user of pytest or of the command gives a setting."""
HEAVY = ("torch", "transformers", "numpy", "scipy", "peft", "safetensors", "huggingface_hub")
NOT_IN_CORE = {*HEAVY, "tokenizers", "pytest", "_pytest", "pluggy"}


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(path: Path, node: ast.AST | None = None) -> Iterator[str]:
    """Every name that a file imports, also inside functions and under TYPE_CHECKING."""
    for part in ast.walk(node or tree_of(path)):
        if isinstance(part, ast.Import):
            yield from (alias.name for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            assert part.level == 0, f"{name_of(path)}:{part.lineno} imports relatively"
            yield from (f"{part.module}.{alias.name}" for alias in part.names)


def ours_in(path: Path) -> Iterator[Path]:
    """The files of the package that a file imports."""
    for name in imported(path):
        if name.split(".")[0] == PACKAGE.name:
            yield file_of(name)


@cache
def file_of(name: str) -> Path:
    """The file that a dotted name stands in: the longest part of it that is a file or folder."""
    parts = name.split(".")[1:]
    for length in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:length])
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
        if path.is_dir():
            return path / "__init__.py"
    return PACKAGE / "__init__.py"


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", [path for path in MODULES if layer_of(path) in LAYERS], ids=name_of
)
def test_imports_point_down(path: Path) -> None:
    here = layer_of(path)
    names = {name for name in imported(path) if name.split(".")[0] == PACKAGE.name}
    allowed = {here, *LAYERS[here], "__init__"}
    wrong = {name for name in names if layer_of(file_of(name)) not in allowed}
    assert not wrong, f"{here} must not import {wrong}"
    public = {f"{PACKAGE.name}.{name}" for name in pytest_divergence.__all__}
    assert not public & names, "inside the package, import from the module that owns it"


def test_every_folder_is_a_layer() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}

    assert folders == LAYERS.keys() - {"evaluator"}
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == ROOT


def test_no_two_files_import_each_other() -> None:
    graph = {path: sorted({*ours_in(path)} - {path}) for path in MODULES if path.parent != PACKAGE}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(name_of(path) for path in error.args[1]))


def test_a_file_name_occurs_once() -> None:
    # A view is named like its record, and a command as its user calls it.
    named = [path for path in MODULES if path.parent.name not in ("reports", "cli")]
    counts = Counter(path.name for path in named if path.name != "__init__.py")
    views = Counter(path.name for path in MODULES if path.parent.name == "reports")

    assert [name for name, count in counts.items() if count > 1] == []
    assert [name for name, count in views.items() if count > 1] == []


def test_files_are_called_by_nouns() -> None:
    words = {path.stem for path in MODULES if re.search(r"(ed|ing)$", path.stem)}

    assert words - FIELD_TERMS - {"wording"} == set()


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p) not in DOORS], ids=name_of)
def test_only_the_doors_and_optional_packages_are_imported_late(path: Path) -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    inside = [node for node in ast.walk(tree_of(path)) if isinstance(node, functions)]
    late = {name.split(".")[0] for node in inside for name in imported(path, node)}

    assert late - OPTIONAL == set()


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if layer_of(p) in ("plugin", "cli") and p.name != "_compat.py"],
    ids=name_of,
)
def test_what_is_private_to_pytest_stands_in_one_file(path: Path) -> None:
    private = [
        f"{path.name}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute)
        and re.match("_[a-z]", node.attr)
        and node.attr not in ("_asdict", "_replace")  # public parts of a NamedTuple
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]
    assert private == []
    assert not {name.split(".")[0] for name in imported(path)} & {"_pytest", "xdist", "pluggy"}


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
