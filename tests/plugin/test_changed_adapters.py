"""A gate never passes on another adapter, or another base, than the two that were named."""

from __future__ import annotations

import pytest

from pytest_divergence.cli import main
from tests.attacks.changes import shuffled, with_base
from tests.plugin.conftest import KNOT, Project, shown

SUITE = "release.divergence.jsonl"
PAIR = ("--model-1=base", "--model-2=adapter")


def test_an_adapter_that_changes_its_base_passes_nowhere(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Replay, search and doctor say the same, and none of them says that all is well."""
    with_base("lm_head.weight", shuffled)(project.path / "adapter")
    project.write_suite(SUITE, {"input": KNOT, "max_kl": 9.0})
    said = "changes the base's own weights: it holds 1 of them"

    for arguments in ((SUITE,), ("--divergence-mode=search", "--divergence-max-kl=9")):
        result = project.run(*PAIR, *arguments)
        assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR)
        assert said in " ".join(shown(result).split())
        assert "passed" not in result.parseoutcomes()
    capsys.readouterr()
    assert main(["doctor", *PAIR]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert said in told
    assert "the adapter fits" not in told


def test_the_whole_adapter_is_measured(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ({"input": KNOT, "max_kl": 9.0}, {"input": "Hi", "max_kl": 1e-6})
    project.write_suite(SUITE, *rows)
    project.run(*PAIR, SUITE).assert_outcomes(passed=1, failed=1)
    assert main(["doctor", *PAIR]) == 0
    assert "the adapter fits base" in capsys.readouterr().out
