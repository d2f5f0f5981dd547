"""How much a session shows: in quiet ones a line, in verbose ones every case and token."""

from __future__ import annotations

import pytest

from pytest_divergence.core.cases import case_id
from tests.plugin.conftest import MODELS, Project, block, properties, shown
from tests.plugin.test_suites import SUITE

SHARES = {"Two": 0.4, "Three": 0.6, "Four": 0.8, "One": 0.2, "Five": 2.0}
"""Bounds by prompt, as a share of what the case reads."""


@pytest.fixture
def values(project: Project) -> dict[str, float]:
    """What the cases read."""
    project.write_suite(SUITE, *({"input": prompt, "max_kl": 99.0} for prompt in SHARES))
    project.run(*MODELS, SUITE, "--junit-xml=junit.xml")
    left = properties(project.path / "junit.xml")
    return {prompt: float(left[case_id(prompt)]["kl"]) for prompt in SHARES}


@pytest.fixture
def suite(project: Project, values: dict[str, float]) -> Project:
    """A suite of which four cases fail."""
    bounds = {prompt: share * values[prompt] for prompt, share in SHARES.items()}
    project.write_suite(SUITE, *({"input": one, "max_kl": kl} for one, kl in bounds.items()))
    return project


def line(prompt: str, values: dict[str, float]) -> str:
    value = values[prompt]
    start = f"  {case_id(prompt):<35} KL {value:.3f} nats/token > max_kl "
    return f"{start}{SHARES[prompt] * value:.3f}"


def test_a_replay_ends_with_what_is_furthest_over_its_bound(
    suite: Project, values: dict[str, float]
) -> None:
    result = suite.run(*MODELS, SUITE)
    result.assert_outcomes(failed=4, passed=1)
    assert block(result, "5 stored cases", 5) == [
        "5 stored cases replayed: 1 within the bound, 4 over it.",
        *(line(one, values) for one in ("One", "Two", "Three")),
        "  1 more with -v",
    ]


def test_a_verbose_replay_names_all_of_them(suite: Project, values: dict[str, float]) -> None:
    result = suite.run(*MODELS, SUITE, "-v", "--tb=no")
    assert block(result, "5 stored cases", 5)[1:] == [
        line(one, values) for one in ("One", "Two", "Three", "Four")
    ]


def test_a_quiet_replay_says_one_line(suite: Project) -> None:
    result = suite.run(*MODELS, SUITE, "-q", "--tb=no")
    divergence = [one for one in result.outlines if "divergence: " in one or "max_kl" in one]
    assert divergence[0] == "divergence: 5 stored cases replayed: 1 within the bound, 4 over it."
    assert all(one.startswith("FAILED ") for one in divergence[1:])


def test_where_all_are_over_their_bounds_it_is_said_in_full(suite: Project) -> None:
    result = suite.run(*MODELS, SUITE, "-k", case_id("Two"))
    assert "1 stored case replayed: 1 over the bound." in result.outlines


def test_the_most_verbose_session_shows_each_token(project: Project) -> None:
    project.write_suite(SUITE, {"input": "How do I tie a knot?", "max_kl": 0.001})
    result = project.run(*MODELS, SUITE, "-vv")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"  the candidate's answer, token by token, KL in nats$",
            r'     1 ".+": KL 0\.\d{3}, reference p . 0\.\d+, candidate p = 0\.\d\d$',
            r'         reference ".+" 0\.\d\d, ".+" 0\.\d\d, ".+" 0\.\d\d$',
            r'         candidate ".+" 0\.\d\d, ".+" 0\.\d\d, ".+" 0\.\d\d$',
        ]
    )
    assert "they differ most at" not in shown(result)


def test_a_kept_suite_is_measured_anew_by_the_command_that_a_failure_shows(
    project: Project,
) -> None:
    project.write_suite(SUITE, {"input": "How do I tie a knot?", "max_kl": 0.001})
    result = project.run(*MODELS, SUITE)
    assert block(result, "  or measure the whole suite again:", 3)[1:] == [
        f"    pytest {SUITE} --model-1 base --model-2 ft \\",
        "      --divergence-update",
    ]
    again = project.run(SUITE, *MODELS, "--divergence-update")
    assert again.ret == pytest.ExitCode.OK


def test_help_says_what_each_does(project: Project) -> None:
    result = project.run("--help")
    assert block(result, "divergence: compare", 2) == [
        "divergence: compare two language models",
        "  (-q: a summary of one line; -v: all failed cases; -vv: their tokens too):",
    ]
