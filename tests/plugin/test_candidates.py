"""A user compares what they have: a GGUF file, a quantised model, more tokens, two adapters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_divergence.models.transformers_log import quiet_transformers
from tests.gguf_writing import write_gguf
from tests.plugin.conftest import KNOT, Project
from tests.tiny import save_tiny_adapter

TEST = f"""
def test_answers(assert_bounded_kl):
    value = assert_bounded_kl({KNOT!r}, max_kl=0.2).measurement.value
    assert value > 1e-7
"""


def test_a_gguf_file_of_the_same_model_passes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DIVERGENCE_CACHE", str(project.path / "cache"))
    write_gguf(project.path / "base", project.path / "base-q8.gguf", is_quantised=True)
    project.write("test_kl.py", TEST)

    result = project.run("--model-1=base", "--model-2=base-q8.gguf", "test_kl.py")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(['*converting "base-q8.gguf" to safetensors (once)*'])


def test_two_adapters_of_one_base(project: Project) -> None:
    save_tiny_adapter(project.path / "base", project.path / "second", seed=1)
    project.write("test_kl.py", TEST.replace("0.2", "20"))

    result = project.run("--model-1=adapter,base=base", "--model-2=second,base=base", "test_kl.py")

    result.assert_outcomes(passed=1)
    refused = project.run("--model-1=adapter", "--model-2=second", "--divergence-mode=search")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    shown = " ".join((str(refused.stderr) + str(refused.stdout)).split())
    assert "add the base to each: ADAPTER,base=MODEL" in shown


@pytest.mark.slow
def test_an_extended_vocabulary_is_searched_and_said(project: Project) -> None:
    with quiet_transformers(), torch.no_grad():
        model: Any = AutoModelForCausalLM.from_pretrained(project.path / "ft", dtype=torch.float32)
        tokenizer: Any = AutoTokenizer.from_pretrained(project.path / "ft")
        tokenizer.add_tokens(["<call>", "<result>"])
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
        model.save_pretrained(project.path / "more")
        tokenizer.save_pretrained(project.path / "more")

    result = project.run("--model-1=base", "--model-2=more", "--divergence-budget=42000")

    shown = " ".join(str(result.stdout).split())
    assert "the candidate knows 2 tokens that the reference does not" in shown
    assert "the 271 shared ones are compared, and the rest as one" in shown
    assert result.ret in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    (suite,) = (project.path / ".divergence/suites").glob("*.divergence.jsonl")
    assert suite.read_text("utf-8")
    replay = ("--model-1=base", "--model-2=more", str(suite), "--divergence-max-kl=50")
    again = project.run(*replay, "-W", "default")
    assert again.ret == result.ret  # by the rows' own limits
