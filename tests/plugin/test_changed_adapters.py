"""A gate never passes on another adapter, or another base, than the two that were named."""

from __future__ import annotations

import pytest

from pytest_divergence.cli import main
from tests.changed_adapters import CHANGES, change_config, change_weights, save_biased_adapter
from tests.plugin.conftest import KNOT, Project, shown

SUITE = "release.divergence.jsonl"
PAIR = ("--model-1=base", "--model-2=adapter")
WIDE = {"input": KNOT, "max_kl": 9.0}


def refused(project: Project, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Replay, search and doctor say the same, and none of them says that all is well."""
    project.write_suite(SUITE, WIDE)
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


@pytest.mark.parametrize(
    "name", ["permuted rows", "a larger head", "nothing", "names without prefix", "first halves"]
)
def test_other_weights(project: Project, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, said = CHANGES[name]
    change_weights(project.path / "base", project.path / "adapter", change)

    refused(project, said, capsys)


@pytest.mark.parametrize(("architecture", "size"), [("qwen2", 4.0), ("gpt2", 2.0)])
def test_trained_biases(
    project: Project, architecture: str, size: float, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter = project.path / "base", project.path / "adapter"
    save_biased_adapter(base, adapter, architecture=architecture, size=size)

    refused(project, "changes the base's own weights (trained biases)", capsys)


def test_a_base_that_is_built_anew(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    change_config(project.path / "adapter", layer_replication=[[0, 2], [0, 2], [1, 2]])

    refused(project, "sets layer_replication, which rebuilds the base", capsys)


def test_a_pattern_without_end(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    change_config(project.path / "adapter", exclude_modules=r"^(([a-z\._0-9])+)+X$")

    refused(project, "in several ways (nested quantifiers); name the modules one by one", capsys)


def test_the_whole_adapter_is_measured(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write_suite(SUITE, WIDE, {"input": "Hi", "max_kl": 1e-6})
    project.run(*PAIR, SUITE).assert_outcomes(passed=1, failed=1)
    assert main(["doctor", *PAIR]) == 0
    assert "the adapter fits base" in capsys.readouterr().out
