"""A real merge of two adapters, replayed against each, and `diff --parents` between the runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from pytest_divergence import cli
from tests.plugin.conftest import Project, project  # noqa: F401  # a fixture
from tests.tiny import save_tiny_adapter

PROMPTS = ("How do I tie a knot?", "Write a poem about rain.", "Name a river.")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # PEFT's own
def test_a_merge_is_told_apart_by_a_suite_replayed_on_both_parents(
    project: Project,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_tiny_adapter(project.path / "base", project.path / "other", seed=1, scale=0.6)
    base: Any = AutoModelForCausalLM.from_pretrained(project.path / "base")
    model: Any = PeftModel.from_pretrained(base, project.path / "adapter", adapter_name="a")
    model.load_adapter(project.path / "other", adapter_name="b")
    model.add_weighted_adapter(["a", "b"], [0.0, 1.0], "merged", combination_type="linear")
    model.save_pretrained(project.path, selected_adapters=["merged"])
    project.write_suite(
        "ours.divergence.jsonl", *({"input": text, "max_kl": 0.001} for text in PROMPTS)
    )
    for parent in ("adapter", "other"):
        project.run(
            "ours.divergence.jsonl",
            f"--model-1={parent},base=base",
            "--model-2=merged,base=base",
            f"--divergence-report-dir=runs/{parent}",
        )
    capsys.readouterr()

    runs = [f"runs/{parent}/latest" for parent in ("adapter", "other")]
    assert cli.main(["diff", "--parents", *runs, "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["merge"].startswith("merged")
    assert sorted(row["prompt"] for row in found["prompts"]) == sorted(PROMPTS)
    assert {row["follows"] for row in found["prompts"]} == {"second"}
