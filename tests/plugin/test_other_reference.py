"""A suite replayed against another reference, or in another dtype, than it was made with.

Its limits are not of that. Another candidate is what a replay is for, and says nothing.
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from pytest_divergence.core.provenance import Provenance, write_provenance
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, nodeid, properties, shown
from tests.plugin.made_provenance import provenance_of

SUITE = "release.divergence.jsonl"
OTHER = ("--model-1=ft", "--model-2=base")
WITH_WARNINGS = ("-W", "default")


def write_suite(project: Project, name: str = SUITE, **changes: Any) -> Provenance:
    """A suite of two cases that a search of `base` and `ft` has left."""
    project.write_suite(name, {"input": KNOT, "max_kl": 20.0}, {"input": POEM, "max_kl": 20.0})
    made = provenance_of(project.path / "base", project.path / "ft", **changes)
    short = {"spec": "base"}
    made = made.model_copy(update={"reference": made.reference.model_copy(update=short)})
    sidecar = name.replace(".divergence.jsonl", ".provenance.json")
    write_provenance(project.path / sidecar, made)
    return made


def digest(project: Project, folder: str) -> str:
    made = provenance_of(project.path / folder, project.path / folder)
    return str(made.reference.weights_sha256)[:8]


def test_another_reference_is_said_once_with_what_to_do(project: Project) -> None:
    write_suite(project)
    base, ft = digest(project, "base"), digest(project, "ft")

    result = project.run(*OTHER, SUITE, *WITH_WARNINGS, "--junitxml=junit.xml")

    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(
        [
            f'  *DivergenceWarning: {SUITE} was made with the reference "base" {base}, but '
            f'--model-1 is "ft" {ft}: its limits were measured against another model, so they do '
            "not apply to this pair; give the suite's reference as --model-1, or measure the suite "
            "again with --divergence-update",
            "2 stored cases replayed: 2 within the bound.",
            f'{SUITE}: its limits were measured against another reference, "base" {base}',
        ]
    )
    assert '"schema_version"' not in shown(result)  # a line of the suite may hold anything
    left = properties(project.path / "junit.xml")
    assert {one["other_reference"] for one in left.values()} == {f'"base" {base}'}


def test_each_suite_is_said_and_one_of_a_search_is_searched_anew(project: Project) -> None:
    suite = f".divergence/suites/{SUITE}"
    write_suite(project, "a.divergence.jsonl")
    write_suite(project, suite)
    result = project.run(*OTHER, "a.divergence.jsonl", suite, *WITH_WARNINGS)
    result.assert_outcomes(passed=4, warnings=2)
    result.stdout.fnmatch_lines(["*; give * as --model-1, or search this pair with *mode=search"])


def test_where_warnings_are_errors_nothing_passes(project: Project) -> None:
    write_suite(project)
    result = project.run(*OTHER, SUITE)
    result.assert_outcomes(errors=2)
    assert "Traceback" not in shown(result)
    result.stdout.fnmatch_lines(
        [
            f'{SUITE} was made with the reference "base" *',
            "2 stored cases not measured.",
        ]
    )


@pytest.mark.slow
def test_with_workers_it_is_said_once_too(project: Project) -> None:
    write_suite(project)
    workers = ("-p", "xdist", "-n2")
    result = project.run_forked(*OTHER, SUITE, *WITH_WARNINGS, *workers)
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines([f"{SUITE}: its limits were measured against another reference, *"])


def test_the_line_that_names_the_model_is_named(project: Project) -> None:
    write_suite(project)
    project.write("pytest.ini", f"[pytest]\ndivergence_pairs =\n    {SUITE} = ft base\n")
    result = project.run(SUITE, *WITH_WARNINGS)
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(["*give the suite's reference as model 1 of divergence_pairs, or*"])


def test_another_candidate_or_the_same_weights_elsewhere_say_nothing(project: Project) -> None:
    write_suite(project)
    result = project.run("--model-1=base", "--model-2=adapter", SUITE)
    result.assert_outcomes(passed=2, warnings=0)
    assert "these values in" not in shown(result)  # nor of the dtype
    shutil.move(project.path / "base", project.path / "moved")
    project.run("--model-1=moved", "--model-2=ft", SUITE).assert_outcomes(passed=2, warnings=0)


def test_where_the_suite_does_not_say_nothing_is_said(project: Project) -> None:
    made = write_suite(project)
    unknown = made.reference.model_copy(update={"weights_sha256": None})
    path = project.path / "release.provenance.json"
    write_provenance(path, made.model_copy(update={"reference": unknown}))
    project.run(*OTHER, SUITE).assert_outcomes(passed=2, warnings=0)
    path.unlink()
    project.run(*OTHER, SUITE).assert_outcomes(passed=2, warnings=0)


def test_an_update_says_nothing_for_it_measures_anew(project: Project) -> None:
    write_suite(project)
    result = project.run(*OTHER, SUITE, "--divergence-update")
    result.assert_outcomes(passed=2, warnings=0)
    again = project.run(*OTHER, SUITE, *WITH_WARNINGS)
    assert "was made with" not in shown(again)


def test_listing_says_nothing(project: Project) -> None:
    write_suite(project)
    result = project.run(*OTHER, SUITE, "--collect-only", "-q")
    assert result.outlines[:2] == sorted([nodeid(SUITE, KNOT), nodeid(SUITE, POEM)])


def test_another_dtype_is_said_once(project: Project) -> None:
    write_suite(project)

    result = project.run(*MODELS, SUITE, "--divergence-dtype=bfloat16", "--junitxml=junit.xml")

    result.assert_outcomes(passed=2)
    says = (
        f"{SUITE}: its limits were measured in float32, these values in bfloat16; what the dtype "
        "alone changes counts as the candidate's"
    )
    assert result.outlines.count(says) == 1
    left = properties(project.path / "junit.xml")
    assert {one["other_dtype"] for one in left.values()} == {"in float32, these values in bfloat16"}
