"""In a session that does not ask for the plugin nothing happens, is imported or is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import Project, shown

WATCHER = """
import json, sys

def pytest_unconfigure():
    roots = sorted({name.partition(".")[0] for name in sys.modules})
    with open("modules.json", "w") as file:
        json.dump(roots, file)
"""
UNIT_TEST = "def test_addition(): assert 1 + 1 == 2\n"


def imported(project: Project, *arguments: str, plugin: str = "divergence") -> set[str]:
    project.run_fresh(*arguments, plugin=plugin)
    return set(json.loads((project.path / "modules.json").read_text("utf-8")))


def test_an_ordinary_session_imports_only_the_standard_library_and_writes_nothing(
    project: Project,
) -> None:
    project.write("conftest.py", WATCHER)
    project.write("test_unit.py", UNIT_TEST)
    theirs = imported(project, plugin="no:divergence")
    before = {path for path in project.path.rglob("*") if "__pycache__" not in path.parts}
    result = project.run_fresh()
    result.assert_outcomes(passed=1)
    lines = [line for line in result.outlines if not line.startswith("plugins:")]
    assert "divergence" not in "\n".join(lines)
    after = {path for path in project.path.rglob("*") if "__pycache__" not in path.parts}
    assert after == before
    added = set(json.loads((project.path / "modules.json").read_text("utf-8"))) - theirs
    assert added - {"pytest_divergence", *sys.stdlib_module_names} == set()
    assert "pytest_divergence" in added


def test_models_in_the_ini_file_load_nothing_for_tests_that_do_not_use_them(
    project: Project,
) -> None:
    project.pytester.makeini("[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = ft\n")
    project.write("conftest.py", WATCHER)
    project.write("test_unit.py", UNIT_TEST)
    strict = ("-W", "error::pytest_divergence.DivergenceWarning")
    assert not {"torch", "transformers", "numpy", "pydantic", "rich"} & imported(project, *strict)
    assert not (project.path / ".divergence").exists()


def test_models_that_no_test_uses_load_no_torch(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("conftest.py", WATCHER)
    project.write("tests/test_unit.py", UNIT_TEST)
    monkeypatch.setenv("PYTEST_DIVERGENCE_MODEL_1", "base")
    models = ("--model-2=ft",)
    assert not {"torch", "transformers", "numpy"} & imported(project, "tests", *models)


def test_importing_the_plugin_costs_at_most_twice_as_much_as_importing_asyncio(
    tmp_path: Path,
) -> None:
    """As a ratio, which holds beside other work too: it takes about as much, some 15 ms."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def seconds(module: str) -> float:
        measure = (
            "import time, pytest\n"
            "start = time.process_time()\n"
            f"import {module}\n"
            "print(time.process_time() - start)\n"
        )
        command = [sys.executable, "-c", measure]
        run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        return float(run.stdout)

    ours, theirs = (
        min(seconds(module) for _ in range(4)) for module in ("pytest_divergence.plugin", "asyncio")
    )
    assert ours <= 2 * theirs


@pytest.mark.parametrize("option", ["--help", "--version", "--fixtures", "--divergence-mode=off"])
def test_a_session_that_only_lists_or_is_switched_off_never_searches(
    project: Project, option: str
) -> None:
    project.write("test_unit.py", UNIT_TEST)
    result = project.run(option, "--model-1=base", "--model-2=ft")
    assert result.ret == pytest.ExitCode.OK
    assert option != "--divergence-mode=off" or "divergence:" not in shown(result)
    assert not (project.path / ".divergence").exists()
