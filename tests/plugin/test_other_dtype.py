"""A suite replayed in another dtype than its limits were measured in."""

from __future__ import annotations

from tests.plugin.conftest import MODELS, Project, properties, shown
from tests.plugin.test_other_reference import SUITE, write_suite

SAYS = (
    f"{SUITE}: its limits were measured in float32, these values in bfloat16; what the dtype "
    "alone changes counts as the candidate's"
)


def test_another_dtype_is_said_once(project: Project) -> None:
    write_suite(project)

    result = project.run(*MODELS, SUITE, "--divergence-dtype=bfloat16", "--junitxml=junit.xml")

    result.assert_outcomes(passed=2)
    assert result.outlines.count(SAYS) == 1
    left = properties(project.path / "junit.xml")
    assert {one["other_dtype"] for one in left.values()} == {"in float32, these values in bfloat16"}


def test_the_same_dtype_says_nothing(project: Project) -> None:
    write_suite(project)

    assert "these values in" not in shown(project.run(*MODELS, SUITE))
