"""A pair that this machine has no memory for is refused before it is loaded."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import MODELS, Project, shown


def test_a_search_that_cannot_fit_is_refused_with_what_would_allow_it(project: Project) -> None:
    result = project.run(*MODELS, "--divergence-memory=1MB")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [
        "ERROR: searching these models takes about 12 MB of memory on cpu (1 MB for weights in "
        "float32, 11 MB for the largest batch), but only 1 MB is allowed by --divergence-memory; "
        "use --divergence-dtype=bfloat16, a smaller --divergence-profile or another "
        "--divergence-device, or try anyway with --divergence-memory=12MB",
        "",
    ]
    assert "Traceback" not in shown(result)
    assert not list(project.path.glob(".divergence/suites/*.jsonl"))


def test_a_replay_does_not_ask(project: Project) -> None:
    project.write_suite("a.divergence.jsonl", {"input": "How do I tie a knot?", "max_kl": 9.0})
    result = project.run(*MODELS, "--divergence-memory=1MB", "a.divergence.jsonl")
    result.assert_outcomes(passed=1)
