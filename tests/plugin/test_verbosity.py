"""How much a session shows: in quiet ones a line, in verbose ones every case and token."""

from __future__ import annotations

import pytest

from pytest_divergence.core.cases import case_id
from tests.plugin.conftest import MODELS, Project, block, properties, shown
from tests.plugin.test_suites import SUITE

SHARES = {"Two": 0.4, "Three": 0.6, "Four": 0.8, "One": 0.2, "Five": 2.0}
"""Bounds by prompt, as a share of what the case reads."""


def test_a_replay_ends_with_what_is_furthest_over_its_bound(project: Project) -> None:
    project.write_suite(SUITE, *({"input": prompt, "max_kl": 99.0} for prompt in SHARES))
    project.run(*MODELS, SUITE, "--junit-xml=junit.xml")
    read = properties(project.path / "junit.xml")
    values = {prompt: float(read[case_id(prompt)]["kl"]) for prompt in SHARES}
    bounds = {prompt: share * values[prompt] for prompt, share in SHARES.items()}
    project.write_suite(SUITE, *({"input": one, "max_kl": kl} for one, kl in bounds.items()))
    first, *others = (
        f"  {case_id(one):<35} KL {values[one]:.3f} nats/token > max_kl {bounds[one]:.3f}"
        for one in ("One", "Two", "Three", "Four")
    )
    total = "5 stored cases replayed: 1 within the bound, 4 over it."

    usual = project.run(*MODELS, SUITE, "--tb=no")
    usual.assert_outcomes(failed=4, passed=1)
    assert block(usual, total, 5) == [total, first, *others[:2], "  1 more with -v"]

    verbose = project.run(*MODELS, SUITE, "-v", "--tb=no")
    assert block(verbose, total, 5) == [total, first, *others]

    quiet = project.run(*MODELS, SUITE, "-q", "--tb=no")
    told = [one for one in quiet.outlines if "divergence: " in one or "max_kl" in one]
    assert told[0] == f"divergence: {total}"
    assert all(one.startswith("FAILED ") for one in told[1:])

    alone = project.run(*MODELS, SUITE, "-k", case_id("Two"))
    assert "1 stored case replayed: 1 over the bound." in alone.outlines


def test_the_most_verbose_session_shows_each_token(project: Project) -> None:
    project.write_suite(SUITE, {"input": "How do I tie a knot?", "max_kl": 0.001})

    result = project.run(*MODELS, SUITE, "-vv")

    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"  the candidate's answer, token by token, KL in nats$",
            r'     1 ".+": KL 0\.\d{3}, reference p . 0\.\d+, candidate p = 0\.\d\d$',
        ]
    )
    assert "they differ most at" not in shown(result)
    # The command that a failure of a kept suite shows measures it anew.
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
