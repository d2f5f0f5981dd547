"""Replayed is what was measured in this session; what its search did is told by the search."""

from __future__ import annotations

import pytest

from pytest_divergence.core.suites import read_suite, write_stored
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, shown
from tests.plugin.test_search import TINY_SEARCH

SUITE = "regress.divergence.jsonl"


@pytest.mark.slow
def test_what_a_search_has_measured_is_not_replayed(project: Project) -> None:
    project.write(
        "conftest.py",
        "from pytest_divergence.core.settings import PROFILES\n"
        f'PROFILES["smoke"] = PROFILES["smoke"].model_copy(update={TINY_SEARCH!r})\n',
    )
    given = (*MODELS, "--divergence-profile=smoke", "--divergence-max-kl=50")
    searched = project.run_forked(*given)
    assert searched.ret == pytest.ExitCode.OK
    assert "cases replayed" not in shown(searched)

    project.write_suite(SUITE, {"input": KNOT, "max_kl": 99.0})
    beside = ("--divergence-mode=search", "--divergence-builtin-suite=on", SUITE)
    both = project.run_forked(*given, *beside)
    both.assert_outcomes(passed=1 + 3)
    assert "1 stored case replayed: 1 within the bound." in both.outlines


def test_what_could_not_be_measured_is_not_replayed(project: Project) -> None:
    project.write_suite(SUITE, *({"input": one, "max_kl": 99.0} for one in (KNOT, POEM)))
    project.run(*MODELS, SUITE, "--divergence-fill")
    stored = read_suite(project.path / SUITE)
    assert stored.provenance is not None
    first, second = stored.tokens.values()
    unreadable = second.model_copy(update={"prompt_sha256": "0" * 64})
    tokens = (first, unreadable)
    write_stored(project.path / SUITE, stored.suite.rows, tokens, stored.provenance)
    result = project.run("--model-1=base", "--model-2=adapter", SUITE, "-W", "default")
    assert "1 stored case replayed: 1 within the bound; 1 not measured." in result.outlines
