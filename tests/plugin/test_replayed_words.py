"""Replayed is what was measured in this session; what a search has measured is called carried."""

from __future__ import annotations

import json

from pytest_divergence.core.file_names import suite_path
from pytest_divergence.core.report import load_report
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, shown
from tests.plugin.test_search import TINY_SEARCH

SUITE = "regress.divergence.jsonl"


def own_suite(project: Project) -> str:
    """The suite that a search of the project's pair has left."""
    project.write(
        "conftest.py",
        "from pytest_divergence.core.settings import PROFILES\n"
        f'PROFILES["smoke"] = PROFILES["smoke"].model_copy(update={TINY_SEARCH!r})\n',
    )
    project.run_forked(*MODELS, "--divergence-profile=smoke", "--divergence-max-kl=50")
    return suite_path(project.path, "base", "ft").relative_to(project.path).as_posix()


def test_what_a_search_has_measured_is_carried_and_not_replayed(project: Project) -> None:
    suite = own_suite(project)
    given = (*MODELS, suite, "--divergence-max-kl=50", "--divergence-report-dir=out")
    result = project.run_forked(*given, "-q", "-W", "default")
    assert "cases replayed" not in shown(result)
    assert (
        "divergence: 2 stored cases carried from the search of this pair: 2 within the bound."
    ) in result.outlines
    (path,) = project.path.glob("out/2*/report.json")
    assert load_report(path).effort.prompts_scored == 0


def test_what_could_not_be_measured_is_not_replayed(project: Project) -> None:
    project.write_suite(SUITE, *({"input": one, "max_kl": 99.0} for one in (KNOT, POEM)))
    project.run(*MODELS, SUITE, "--divergence-fill")
    tokens = project.path / "regress.tokens.jsonl"
    first, second = tokens.read_text("utf-8").splitlines()
    changed = json.dumps({**json.loads(second), "prompt_sha256": "0" * 64})
    tokens.write_text(f"{first}\n{changed}\n", "utf-8")
    result = project.run("--model-1=base", "--model-2=adapter", SUITE, "-W", "default")
    assert "1 stored case replayed: 1 within the bound; 1 not measured." in result.outlines
