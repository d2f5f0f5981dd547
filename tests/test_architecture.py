"""Imports point one way, and nothing heavy starts before it is asked for."""

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
LAYERS = {
    "cli": {"plugin", "discovery", "reports", "exports", "scoring", "models", "core"},
    "plugin": {"discovery", "reports", "exports", "scoring", "models", "core"},
    "integrations": {"scoring", "models", "core"},
    "evaluator": {"discovery", "reports", "scoring", "models", "core"},
    "notebook": {"discovery", "reports", "scoring", "models", "core"},
    "discovery": {"scoring", "models", "core"},
    "reports": {"core"},
    "exports": {"core"},
    "scoring": {"models", "core"},
    "models": {"core"},
    "core": set(),
}
"""What each folder may import besides itself; `evaluator` and `notebook` are files."""
FILES = {"evaluator", "notebook"}
ROOT = {"__init__.py", "py.typed", *(f"{name}.py" for name in FILES)}
OURS = f"{PACKAGE.name}."
DOORS = {"plugin/__init__.py", "cli/__init__.py"}
"""Where what is heavy is imported late, so that others need not."""
OPTIONAL = {"accelerate", "datasets", "gguf", "httpx", "peft", "ray", "xdist"}
"""Imported late wherever they are used: a user may not have them."""
FIELD_TERMS = {
    "batching",
    "checkpointing",
    "decoding",
    "loading",
    "teacher_forcing",
    "training",
    "warning",
    "wording",
}
"""File names that end like a participle and are the field's own nouns."""
BELOW_THE_EDGE = sorted(
    path
    for layer in LAYERS.keys() - {"cli", "plugin", "integrations", *FILES}
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

    assert folders == LAYERS.keys() - FILES
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == ROOT


def with_packages(path: Path) -> Iterator[Path]:
    """A file and the `__init__.py` of each folder above it, which Python runs before it."""
    yield path
    for folder in path.parents:
        if folder == PACKAGE:
            return
        yield folder / "__init__.py"


def test_no_two_files_import_each_other() -> None:
    # A door imports its own folder's files late, so that they may import it.
    doors = {PACKAGE / name for name in DOORS}
    graph = {
        path: sorted({one for found in ours_in(path) for one in with_packages(found)} - {path})
        for path in MODULES
        if path.parent != PACKAGE and path not in doors
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(name_of(path) for path in error.args[1]))


def test_doors_are_imported_by_no_one_whom_they_import_early() -> None:
    early = {name: {*early_in(PACKAGE / name)} for name in DOORS}
    for name, files in early.items():
        assert not {path for path in files if PACKAGE / name in ours_in(path)}


def early_in(path: Path) -> Iterator[Path]:
    for node in tree_of(path).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (file_of(name) for name in imported(path, node) if name.startswith(OURS))


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


def test_files_are_called_by_nouns() -> None:
    words = {path.stem for path in MODULES if re.search(r"(ed|ing)$", path.stem)}

    assert words == FIELD_TERMS


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p) not in DOORS], ids=name_of)
def test_only_the_doors_and_optional_packages_are_imported_late(path: Path) -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    inside = [node for node in ast.walk(tree_of(path)) if isinstance(node, functions)]
    late = {name.split(".")[0] for node in inside for name in imported(path, node)}

    assert late - OPTIONAL == set()


@pytest.mark.parametrize(
    "path", [p for p in MODULES if name_of(p) not in {*DOORS, "__init__.py"}], ids=name_of
)
def test_nothing_is_imported_by_name_but_through_the_doors(path: Path) -> None:
    assert not set(re.findall(r"\b(import_module|__import__)\b", path.read_text("utf-8")))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_private_names_stay_in_their_file(path: Path) -> None:
    names = [name for name in imported(path) if name.startswith(OURS)]
    private = [name for name in names if name.rpartition(".")[2].startswith("_")]

    assert [name for name in private if file_of(name).stem != name.rpartition(".")[2]] == [
        name for name in private if name == f"{PACKAGE.name}.__version__"
    ]


@pytest.mark.parametrize(
    "path", [p for p in MODULES if layer_of(p) not in ("plugin", "cli")], ids=name_of
)
def test_only_the_pytest_layer_knows_pytest(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"pytest", "_pytest", "pluggy"}


def closure_of(path: Path) -> set[Path]:
    """All files of the package that importing a file runs."""
    found, new = set[Path](), [path]
    while new:
        one = new.pop()
        if one not in found:
            found.add(one)
            new += [each for below in early_in(one) for each in with_packages(below)]
    return found - {PACKAGE / name for name in DOORS}


def outside_imports(paths: set[Path]) -> set[str]:
    """The top-level packages of others that files import when they are run."""
    nodes = [
        (path, node)
        for path in paths
        for node in tree_of(path).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    return {name.split(".")[0] for path, node in nodes for name in imported(path, node)}


def test_the_plugin_starts_with_the_standard_library_and_pytest() -> None:
    started = {PACKAGE / "plugin/__init__.py", *closure_of(PACKAGE / "plugin/__init__.py")}
    allowed = {*sys.stdlib_module_names, "pytest", "_pytest", PACKAGE.name}

    assert outside_imports(started) - allowed == set()


@pytest.mark.parametrize("name", ["collection", "terminal", "github", "warning", "frames"])
def test_what_collects_and_shows_needs_no_model(name: str) -> None:
    assert not outside_imports(closure_of(PACKAGE / f"plugin/{name}.py")) & set(HEAVY)


def test_the_plugin_lists_its_files() -> None:
    docstring = ast.get_docstring(tree_of(PACKAGE / "plugin/__init__.py")) or ""
    listed = re.findall(r"^    (\w+) +\S", docstring, re.MULTILINE)

    files = {path.stem for path in (PACKAGE / "plugin").glob("*.py")} - {"__init__"}
    assert sorted(listed) == sorted(files)


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


def test_one_file_imports_ray_and_only_when_it_is_asked_for() -> None:
    users = {name_of(p) for p in MODULES if "ray" in {n.split(".")[0] for n in imported(p)}}

    assert users == {"discovery/engines/ray_cluster.py"}
    assert "ray" not in outside_imports({PACKAGE / name for name in users})


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").rglob("*.py")), ids=name_of)
def test_core_knows_neither_models_nor_pytest(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & NOT_IN_CORE


ABOVE_MODELS = [path for path in MODULES if layer_of(path) not in ("models", "core")]
IN_MEMORY = {"evaluator.py", "discovery/soft_prompts/trainer.py"}
"""They take models that a user has in memory, and hand them on unseen."""
TRAINERS = {"integrations/trainer_callback.py"}
"""They are called by a training loop, which has the model in training."""


@pytest.mark.parametrize("path", ABOVE_MODELS, ids=name_of)
def test_above_models_a_side_is_a_protocol(path: Path) -> None:
    """So that another kind of side is one class in one file of `models/`."""
    if name_of(path) in TRAINERS:
        return
    names = list(imported(path))
    inside = [
        f"{path.name}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Attribute) and node.attr == "model")
        or (isinstance(node, ast.Call) and "'model'" in map(ast.unparse, node.args[1:2]))
    ]

    assert inside == [], "ask with_gradients or with_weights for what a side must give"
    assert PACKAGE / "models/transformers_side.py" not in ours_in(path)
    if name_of(path) in IN_MEMORY:
        names = [name for node in run_in(path) for name in imported(path, node)]
    assert "transformers" not in {name.split(".")[0] for name in names}


def run_in(path: Path) -> Iterator[ast.stmt]:
    """The statements of a file that are no imports for types alone."""
    for node in tree_of(path).body:
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node


@pytest.mark.parametrize("path", sorted((PACKAGE / "reports").rglob("*.py")), ids=name_of)
def test_reports_need_no_model(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & set(HEAVY)


@pytest.mark.parametrize("path", [p for p in MODULES if layer_of(p) == "cli"], ids=name_of)
def test_commands_print_in_one_place(path: Path) -> None:
    """There what is live in a terminal or a log is spelled out."""
    calls = [one for one in ast.walk(tree_of(path)) if isinstance(one, ast.Call)]
    printed = [one for one in calls if ast.unparse(one.func) in ("print", "sys.stdout.write")]

    assert path.name == "_output.py" or not printed


MAY_WRITE = {
    "core/files.py",  # replaces files whole, by a link's name too
    "core/regular_files.py",
    "core/json_schemas.py",  # the published schemas, by hand
    "cli/__init__.py",  # to the null device
    "models/gguf.py",  # a model's folder in the user's cache, by transformers' own writer
}
MAY_READ = {
    "core/regular_files.py",
    "core/journal.py",  # what it holds open
    "core/suites.py",  # what it has just read so
    "cli/init.py",  # our own templates
    "cli/schema.py",  # our own schemas
    "exports/features.py",
    "reports/html.py",  # our own page
    "models/memory.py",  # what the system says of itself
    "models/forward.py",
}
"""Files that open others in their own way; models have theirs (`models/folder_checks.py`)."""


def opened_in(path: Path) -> Iterator[tuple[str, str]]:
    """Each call that reads or writes a file in a way of its own: "r" or "w", and the call."""
    reading = {"read_text", "read_bytes"}
    writing = {"write_text", "write_bytes", "mkdir", "makedirs", "touch", "symlink", "symlink_to"}
    writing |= {
        "copy",
        "copyfile",
        "copytree",
        "copy2",
        "move",
        "link",
        "rename",
        "mknod",
        "mkfifo",
    }
    writing |= {"hardlink_to", "NamedTemporaryFile", "mkdtemp", "mkstemp", "save_pretrained"}
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        owner, _, name = called.rpartition(".")
        if name in writing and owner not in ("copy", "self"):
            yield "w", called
        elif name in reading or called in ("os.open", "io.open", "open"):
            yield ("w" if called == "os.open" else _mode(node)), called
        elif name == "open" and owner not in ("Journal", "cls"):
            yield _mode(node), called


def _mode(call: ast.Call) -> str:
    modes = [one.value for one in ast.walk(call) if isinstance(one, ast.Constant)]
    is_writing = any(re.fullmatch("[rwaxbt+]*[wax+][rwaxbt+]*", str(mode)) for mode in modes)
    return "w" if is_writing else "r"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_are_opened_in_one_place(path: Path) -> None:
    """There a link, a FIFO, a device and a huge file are refused."""
    calls = list(opened_in(path))

    assert name_of(path) in MAY_WRITE or not [call for mode, call in calls if mode == "w"]
    if layer_of(path) != "models":
        allowed = MAY_READ | MAY_WRITE
        assert name_of(path) in allowed or not [call for mode, call in calls if mode == "r"]


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


RELATIVE = re.compile(r"(The same|What|Which|Who|Whose|Where|When|Why|How|That|Those|As)\b")
"""Beginnings of a docstring that leave open what it is about; "Whether" tells of a truth value."""


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every docstring of a file with its line, those below fields and constants too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str):
                yield node.lineno, text


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_docstring_begins_with_a_verb_or_a_noun(path: Path) -> None:
    open_ended = [
        f"{name_of(path)}:{line}: {text[:60]}"
        for line, text in docstrings(tree_of(path))
        if RELATIVE.match(text)
    ]
    assert not open_ended


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_variable_says_what_it_is(path: Path) -> None:
    """A loop over cases has a `case`, never a `one`."""
    names = [
        node.lineno
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Name) and node.id == "one" and isinstance(node.ctx, ast.Store))
        or (isinstance(node, ast.arg) and node.arg == "one")
    ]
    assert not names
