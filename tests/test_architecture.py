"""Imports are early or late as the layers need it, and nothing heavy starts before it is asked for.

Which layer may import which, and what ruff can tell of a file alone, stands in `pyproject.toml`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pytest_divergence
from pytest_divergence.plugin.options import BY_FIELD

PACKAGE = Path(pytest_divergence.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name != "data")
OURS = f"{PACKAGE.name}."
DOORS = {"plugin/__init__.py", "cli/__init__.py"}
"""Where what is heavy is imported late, so that others need not."""
EDGE = {"__init__", "cli", "plugin", "integrations", "evaluator", "notebook"}
"""What knows how a user of pytest or of the command gives a setting."""
HEAVY = {"torch", "transformers", "numpy", "scipy", "peft", "safetensors", "huggingface_hub"}


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(*nodes: ast.AST) -> Iterator[str]:
    """Every name that is imported in nodes, also inside functions and under TYPE_CHECKING."""
    for part in (part for node in nodes for part in ast.walk(node)):
        if isinstance(part, ast.Import):
            yield from (alias.name for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            yield from (f"{part.module}.{alias.name}" for alias in part.names)


def roots(*nodes: ast.AST) -> set[str]:
    """The top-level packages that are imported in nodes."""
    return {name.split(".")[0] for name in imported(*nodes)}


def early(path: Path) -> list[ast.stmt]:
    """The imports that run when a file is imported."""
    return [node for node in tree_of(path).body if isinstance(node, (ast.Import, ast.ImportFrom))]


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


def ours(*nodes: ast.AST) -> Iterator[Path]:
    """The files of the package that are imported in nodes, and the packages above them.

    Python runs the `__init__.py` of each folder before a file in it.
    """
    for path in (file_of(name) for name in imported(*nodes) if name.startswith(OURS)):
        yield path
        folders = path.parents[: path.parents.index(PACKAGE)] if path.parent != PACKAGE else ()
        yield from (folder / "__init__.py" for folder in folders)


def closure_of(path: Path) -> set[Path]:
    """All files of the package that importing a file runs, without the doors."""
    found, new = set[Path](), [path]
    while new:
        next_path = new.pop()
        if next_path not in found:
            found.add(next_path)
            new += ours(*early(next_path))
    return found - {PACKAGE / name for name in DOORS}


def test_no_two_files_import_each_other() -> None:
    # A door imports its own folder's files late, so that they may import it.
    doors = {PACKAGE / name for name in DOORS}
    graph = {
        path: sorted(set(ours(tree_of(path))) - {path})
        for path in MODULES
        if path.parent != PACKAGE and path not in doors
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(name_of(path) for path in error.args[1]))


def test_doors_are_imported_by_no_one_whom_they_import_early() -> None:
    circles = [
        f"{door} imports {name_of(path)}, which imports it"
        for door in sorted(DOORS)
        for path in closure_of(PACKAGE / door) - {PACKAGE / door}
        if PACKAGE / door in map(file_of, filter(is_ours, imported(tree_of(path))))
    ]
    assert circles == []


def is_ours(name: str) -> bool:
    return name.startswith(OURS)


SHARED_NAMES = {
    # A view is named like its record, or like what it shows the end of.
    "aggregates.py": {"core", "reports"},
    "behaviours.py": {"core", "reports"},
    "calibration.py": {"discovery", "reports"},
    "comparison.py": {"core", "reports"},
    "evaluation.py": {"discovery", "reports"},
    "github.py": {"plugin", "reports"},
    "terminal.py": {"plugin", "reports"},
    "token_statistics.py": {"core", "reports"},
    "training.py": {"discovery/soft_prompts", "reports"},
    # A command is named as its user calls it.
    "replay.py": {"cli", "plugin"},
    "report.py": {"cli", "core"},
}


def test_a_file_name_occurs_once() -> None:
    places: dict[str, set[str]] = {}
    for path in MODULES:
        places.setdefault(path.name, set()).add(name_of(path.parent))
    del places["__init__.py"]

    assert {name: where for name, where in places.items() if len(where) > 1} == SHARED_NAMES


def test_private_names_stay_in_their_file() -> None:
    private = [
        f"{name_of(path)}: {name}"
        for path in MODULES
        for name in imported(tree_of(path))
        if is_ours(name)
        and (last := name.rpartition(".")[2]).startswith("_")
        and file_of(name).stem != last
        and name != f"{OURS}__version__"
    ]
    assert private == []


def test_inside_the_package_a_name_is_imported_from_the_module_that_owns_it() -> None:
    public = {f"{OURS}{name}" for name in pytest_divergence.__all__}
    users = [f"{name_of(p)}: {n}" for p in MODULES for n in public & {*imported(tree_of(p))}]

    assert users == []


def test_the_plugin_starts_with_the_standard_library_and_pytest() -> None:
    plugin = PACKAGE / "plugin/__init__.py"
    started = [node for path in {plugin, *closure_of(plugin)} for node in early(path)]

    assert roots(*started) - {*sys.stdlib_module_names, "pytest", "_pytest", PACKAGE.name} == set()


@pytest.mark.parametrize("name", ["collection", "terminal", "github", "warning", "frames"])
def test_what_collects_and_shows_needs_no_model(name: str) -> None:
    files = closure_of(PACKAGE / f"plugin/{name}.py")

    assert {name_of(p): heavy for p in files if (heavy := roots(*early(p)) & HEAVY)} == {}


def test_the_plugin_lists_its_files() -> None:
    docstring = ast.get_docstring(tree_of(PACKAGE / "plugin/__init__.py")) or ""
    listed = re.findall(r"^    (\w+) +\S", docstring, re.MULTILINE)

    files = {path.stem for path in (PACKAGE / "plugin").glob("*.py")} - {"__init__"}
    assert sorted(listed) == sorted(files)


def test_only_the_edge_knows_options() -> None:
    below = [
        path
        for path in sorted(PACKAGE.rglob("*"))
        if path.suffix in (".py", ".jinja", ".js", ".css") and layer_of(path) not in EDGE
    ]
    texts = {name_of(path): path.read_text("utf-8") for path in below if "data" not in path.parts}
    flags = {n: f for n, t in texts.items() if (f := re.findall(r"--(?:divergence|model)-\w+", t))}
    fields = {
        name: unknown
        for name, text in texts.items()
        if (unknown := {*re.findall(r"\bsetting\(['\"](\w+)['\"]\)", text)} - {*BY_FIELD})
    }
    assert flags == {}, "name it by setting(FIELD)"
    assert fields == {}


IN_MEMORY = {"integrations/trainer_callback.py"}
"""They are called by a training loop, which has the model in training."""


def test_above_models_a_side_is_a_protocol() -> None:
    """So that another kind of side is one class in one file of `models/`."""
    inside = [
        f"{name_of(path)}:{node.lineno} {ast.unparse(node)}"
        for path in MODULES
        if layer_of(path) not in ("models", "core") and name_of(path) not in IN_MEMORY
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Attribute) and node.attr == "model")
        or (isinstance(node, ast.Call) and "'model'" in map(ast.unparse, node.args[1:2]))
    ]
    assert inside == [], "ask with_gradients or with_weights for what a side must give"


MAY_WRITE = {
    "core/files.py",  # replaces files whole, by a link's name too
    "core/regular_files.py",
    "core/json_schemas.py",  # the published schemas, by hand
    "cli/__init__.py",  # to the null device
    "models/gguf.py",  # a model's folder in the user's cache, by transformers' own writer
}
MAY_READ = MAY_WRITE | {
    "core/journal.py",  # what it holds open
    "core/suites.py",  # what it has just read so
    "cli/init.py",  # our own templates
    "cli/schema.py",  # our own schemas
    "exports/features.py",
    "reports/html.py",  # our own page
}
"""Files that open others in their own way; models have theirs (`models/folder_checks.py`)."""
READING = {"read_text", "read_bytes"}
WRITING = {
    *("write_text", "write_bytes", "mkdir", "makedirs", "mkdtemp", "mkstemp", "mknod", "mkfifo"),
    *("touch", "symlink", "symlink_to", "link", "hardlink_to", "rename", "move"),
    *("copy", "copy2", "copyfile", "copytree", "NamedTemporaryFile", "save_pretrained"),
}


def opened_in(path: Path) -> Iterator[tuple[str, str]]:
    """Each call that reads or writes a file in a way of its own: "r" or "w", and the call."""
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        owner, _, name = called.rpartition(".")
        if name in WRITING and owner not in ("copy", "self"):
            yield "w", called
        elif name in READING or called in ("os.open", "io.open", "open"):
            yield ("w" if called == "os.open" else mode_of(node)), called
        elif name == "open" and owner not in ("Journal", "cls"):
            yield mode_of(node), called


def mode_of(call: ast.Call) -> str:
    modes = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
    is_writing = any(re.fullmatch("[rwaxbt+]*[wax+][rwaxbt+]*", str(mode)) for mode in modes)
    return "w" if is_writing else "r"


def test_files_are_opened_in_one_place() -> None:
    """There a link, a FIFO, a device and a huge file are refused."""
    calls = [(path, mode, call) for path in MODULES for mode, call in opened_in(path)]

    writers = [(name_of(path), call) for path, mode, call in calls if mode == "w"]
    assert [(name, call) for name, call in writers if name not in MAY_WRITE] == []
    readers = [
        (name_of(path), call)
        for path, mode, call in calls
        if mode == "r" and layer_of(path) != "models"
    ]
    assert [(name, call) for name, call in readers if name not in MAY_READ] == []


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
    modules = [f"{OURS}core.{path.stem}" for path in (PACKAGE / "core").glob("[a-z]*")]

    loaded = loaded_after(f"import {', '.join(modules)}")
    assert not loaded & {*HEAVY, "tokenizers", "pytest", "_pytest", "pluggy"}


def test_public_names_resolve_and_are_sorted_and_listed() -> None:
    for name in pytest_divergence.__all__:
        assert getattr(pytest_divergence, name).__module__.startswith(OURS)
    assert pytest_divergence.__all__ == sorted(pytest_divergence.__all__)
    assert set(pytest_divergence.__all__) <= set(dir(pytest_divergence))


def test_an_unknown_public_name_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = pytest_divergence.nothing
