"""`conftest_templates/`: what all of them have in common."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pytest_divergence
from tests.templates.conftest import TEMPLATES, copy_template

NAMES = sorted(path.parent.name for path in TEMPLATES.glob("*/conftest.py"))


def test_the_minimal_one_is_what_init_writes() -> None:
    data = Path(pytest_divergence.__file__).parent / "data" / "conftest_template.py"
    assert (TEMPLATES / "minimal" / "conftest.py").read_bytes() == data.read_bytes()


def test_each_says_when_to_use_it_and_is_listed() -> None:
    listed = (TEMPLATES / "README.md").read_text("utf-8")
    for name in NAMES:
        source = (TEMPLATES / name / "conftest.py").read_text("utf-8")
        about = ast.get_docstring(ast.parse(source)) or ""
        starts = [paragraph.partition(":")[0] for paragraph in about.split("\n\n")]
        assert starts[0] == "When to use it"
        assert {"How to run it", "What it leaves to you"} <= set(starts)
        assert f"\n| [{name}]({name}) | " in listed


def test_a_project_without_the_plugin_still_runs(pytester: pytest.Pytester) -> None:
    ignored = ("-p", "no:divergence", "-W", "ignore::pytest.PytestConfigWarning")
    for name in NAMES:
        folder = pytester.path / name
        copy_template(name, folder)
        (folder / "test_unit.py").write_text("def test_addition(): assert 1 + 1 == 2\n")
        where = ("-c", str(folder / "pytest.ini")) if (folder / "pytest.ini").exists() else ()
        result = pytester.runpytest_inprocess(*ignored, *where, str(folder / "test_unit.py"))
        result.assert_outcomes(passed=1)
