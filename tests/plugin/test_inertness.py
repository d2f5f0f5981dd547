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


@pytest.mark.parametrize("extra", [(), ("--collect-only",), ("--fixtures",), ("--markers",)])
def test_an_ordinary_session_imports_only_the_standard_library_for_us(
    project: Project, extra: tuple[str, ...]
) -> None:
    project.write("conftest.py", WATCHER)
    project.write("test_unit.py", UNIT_TEST)
    added = imported(project, *extra) - imported(project, *extra, plugin="no:divergence")
    allowed = {"pytest_divergence", *sys.stdlib_module_names}
    assert added - allowed == set()
    assert "pytest_divergence" in added


def test_an_ordinary_session_prints_and_writes_nothing(project: Project) -> None:
    project.write("test_unit.py", UNIT_TEST)
    before = sorted(project.path.rglob("*"))
    result = project.run()
    result.assert_outcomes(passed=1)
    lines = [line for line in result.outlines if not line.startswith("plugins:")]
    assert "divergence" not in "\n".join(lines)
    after = [path for path in sorted(project.path.rglob("*")) if "__pycache__" not in path.parts]
    assert after == before


def test_models_in_the_ini_file_load_nothing_for_tests_that_do_not_use_them(
    project: Project,
) -> None:
    project.pytester.makeini("[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = ft\n")
    project.write("conftest.py", WATCHER)
    project.write("test_unit.py", UNIT_TEST)
    assert not {"torch", "transformers", "numpy", "pydantic", "rich"} & imported(project)
    assert not (project.path / ".divergence").exists()


@pytest.mark.parametrize("where", ["command line", "environment"])
def test_models_that_no_test_uses_load_no_torch(
    project: Project, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    project.write("conftest.py", WATCHER)
    project.write("tests/test_unit.py", UNIT_TEST)
    models = ["--model-1=base", "--model-2=ft"]
    if where == "environment":
        monkeypatch.setenv("PYTEST_DIVERGENCE_MODEL_1", "base")
        monkeypatch.setenv("PYTEST_DIVERGENCE_MODEL_2", "ft")
        models = []
    assert not {"torch", "transformers", "numpy"} & imported(project, "tests", *models)


def test_a_filter_for_our_warning_imports_nothing(project: Project) -> None:
    project.write("conftest.py", WATCHER)
    project.write("test_unit.py", UNIT_TEST)
    strict = ("-W", "error::pytest_divergence.DivergenceWarning")
    assert not {"torch", "pydantic", "rich"} & imported(project, *strict)


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


@pytest.mark.parametrize("option", ["--help", "--version", "--markers", "--fixtures", "--co"])
def test_listing_never_searches(project: Project, option: str) -> None:
    project.write("test_unit.py", UNIT_TEST)
    result = project.run_fresh(option, "--model-1=base", "--model-2=ft")
    assert result.ret in (0, 5)
    assert "Traceback (most" not in shown(result)
    assert not (project.path / ".divergence").exists()


def test_switched_off_it_stays_off(project: Project) -> None:
    project.write("test_unit.py", UNIT_TEST)
    result = project.run("--model-1=base", "--model-2=ft", "--divergence-mode=off")
    result.assert_outcomes(passed=1)
    assert "divergence:" not in shown(result)
    assert not (project.path / ".divergence").exists()
