"""The notebook, run top to bottom on tiny models.

Its cells are executed in this process, not in a kernel: there a search could not be made smaller,
and torch would be imported once more, which takes longer than all the cells. The notebook uses
nothing but Python. nbformat checks that it is one, and that it is committed without outputs.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jsonschema import Draft202012Validator

from pytest_divergence.core.file_names import sidecar_path
from pytest_divergence.core.json_schemas import published_path
from pytest_divergence.core.settings import PROFILES
from tests.plugin.test_search import TINY_SEARCH

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook" / "compare_two_models.ipynb"


def shown_by(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell; the value of its last line, where that is an expression, as Jupyter shows."""
    tree = ast.parse(source)
    last = tree.body[-1]
    if not isinstance(last, ast.Expr):
        exec(compile(tree, NOTEBOOK.name, "exec"), names)
        return None
    exec(compile(ast.Module(tree.body[:-1], []), NOTEBOOK.name, "exec"), names)
    return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)


@pytest.mark.slow
def test_the_notebook_runs_top_to_bottom(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PROFILES, "smoke", PROFILES["smoke"].model_copy(update=TINY_SEARCH))
    notebook: Any = nbformat.reads(NOTEBOOK.read_text("utf-8"), as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    names: dict[str, Any] = {}
    shown: dict[str, Any] = {}

    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        assert not cell.outputs, "clear the outputs before you commit"
        shown[cell.id] = shown_by(cell.source, names)
        if "parameters" in cell.metadata.get("tags", []):
            assert set(names) >= {"REFERENCE", "CANDIDATE"}
            names |= {"REFERENCE": str(tiny_models / "base"), "CANDIDATE": str(tiny_models / "ft")}

    assert list(shown["own-scores"]["kl"] > 0) == [True] * 3
    assert shown["noise-scores"] < 1e-4
    found, report = shown["suite"], names["outcome"].report
    assert shown["discover"]._repr_html_().startswith("<iframe ")
    assert set(found.index) <= {case.id for case in report.cases}
    assert found["kl"].is_monotonic_decreasing
    worst = max(report.cases, key=lambda case: case.kl.value)
    assert shown["case"]._repr_html_().startswith("<table>")
    assert list(shown["worst"]["text"]) == [token.text for token in worst.tokens]
    check_against_schemas(names["outcome"].suite_path, names["outcome"].report_dir)


def check_against_schemas(suite: Path, report_dir: Path) -> None:
    """Validate all files of a search with the schemas that are published for them."""
    files = {
        "suite": suite.read_text("utf-8").splitlines(),
        "tokens": sidecar_path(suite, "tokens.jsonl").read_text("utf-8").splitlines(),
        "provenance": [sidecar_path(suite, "provenance.json").read_text("utf-8")],
        "report": [(report_dir / "report.json").read_text("utf-8")],
    }
    for kind, texts in files.items():
        assert texts
        validator = Draft202012Validator(json.loads(published_path(kind).read_text("utf-8")))
        for text in texts:
            validator.validate(json.loads(text))
