"""Suites replayed on a model that answers in vLLM's form, and on servers that lie."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_divergence import load_model_pair
from pytest_divergence.core.suites import read_suite
from pytest_divergence.scoring.cheap_scores import prompt_nlls
from tests.plugin.conftest import KNOT, POEM, SUITE, Project
from tests.plugin.test_served import cases_of, refusal, tried
from tests.served import Answer, Change, proxy
from tests.thinking import OPENED
from tests.tiny import CHATML
from tests.vllm_form import VllmForm, vllm_form

DATED = "{{ strftime_now('%d %B %Y') }}"


@pytest.fixture(scope="module")
def ft(tiny_models: Path) -> Iterator[VllmForm]:
    """A server that runs `ft`."""
    with vllm_form(tiny_models / "ft") as server:
        yield server


def replayed(project: Project, candidate: str, *arguments: str) -> pytest.RunResult:
    return project.run(
        SUITE, "--model-1=base", f"--model-2=vllm:{candidate}", "-Wignore:aggregate", *arguments
    )


def test_a_suite_made_on_local_weights_gates_the_server(served: Project, ft: VllmForm) -> None:
    ft.asked.clear()

    result = replayed(served, ft.address, "--divergence-report-dir=out")

    result.assert_outcomes(passed=3)
    stored = {row.id: row for row in read_suite(served.path / SUITE).suite.cases}
    for case in cases_of(served, "out"):
        made = stored[case["id"]].kl
        assert made is not None
        assert case["kl"]["value"] == pytest.approx(made.value, rel=0.01)
        assert case["kl"]["k3"] == pytest.approx(made.k3, rel=0.01)
    # Each question is kept apart from what was read before.
    salts = [body["cache_salt"] for body in ft.asked if "cache_salt" in body]
    assert len(salts) > 8
    assert len(set(salts)) == len(salts)
    assert all(body["top_k"] == 0 for body in ft.asked if "cache_salt" in body)


def test_what_a_search_asks_is_answered_as_by_the_weights(tiny_models: Path, ft: VllmForm) -> None:
    prompts = [KNOT, POEM]
    local = load_model_pair(str(tiny_models / "base"), str(tiny_models / "ft"))
    asked = load_model_pair(str(tiny_models / "base"), f"vllm:{ft.address}")

    assert asked.candidate.vocab_size == local.candidate.vocab_size
    assert prompt_nlls(asked, asked.candidate, prompts) == pytest.approx(
        prompt_nlls(local, local.candidate, prompts), abs=1e-4
    )
    ((prefix, body),) = local.prompt_rows([KNOT])
    told, true = (pair.candidate.start([body], prefix=prefix).logits for pair in (asked, local))
    assert told.topk(20).indices.tolist() == true.topk(20).indices.tolist()
    assert torch.allclose(told.topk(20).values, true.log_softmax(-1).topk(20).values, atol=1e-4)


def test_one_of_several_models_is_named(tiny_models: Path) -> None:
    with vllm_form(tiny_models / "ft", names=("base", "release")) as server:
        unnamed = refusal(tiny_models, f"vllm:{server.address}")
        assert tried(tiny_models, f"vllm:{server.address},model=release")

    assert "is not told which model to ask; add model=NAME, one of" in unnamed
    assert {body["model"] for body in server.asked[-5:]} == {"release"}


@pytest.mark.parametrize("template", [OPENED, CHATML + DATED], ids=["open thoughts", "date"])
def test_what_a_server_renders_otherwise_is_no_other_template(
    tiny_models: Path, tmp_path: Path, template: str
) -> None:
    """It closes no thoughts, and its clock goes on."""
    for name in ("base", "ft"):
        shutil.copytree(tiny_models / name, tmp_path / name)
        (tmp_path / name / "chat_template.jinja").write_text(template, "utf-8")

    with vllm_form(tmp_path / "ft") as server:
        pair = load_model_pair(str(tmp_path / "base"), f"vllm:{server.address}")

    assert pair.chat.template == template


def other_ids(path: str, answer: Answer, number: int) -> Answer:
    return changed(answer, "prompt_token_ids", lambda ids: [*ids[:-1], 0])


def cut_heads(path: str, answer: Answer, number: int) -> Answer:
    def cut(rows: Any) -> Any:
        return rows and [row and dict(list(row.items())[:5]) for row in rows]

    return changed(answer, "prompt_logprobs", cut)


def no_numbers(path: str, answer: Answer, number: int) -> Answer:
    return changed(answer, "prompt_logprobs", lambda rows: None)


def changed(answer: Answer, name: str, change: Any) -> Answer:
    assert isinstance(answer, dict)
    for choice in answer.get("choices", ()):
        choice[name] = change(choice[name])
    return answer


LIES: dict[Change, str] = {
    other_ids: "ids and has read others: [",
    cut_heads: "of the 20 most likely tokens that it was asked for",
    no_numbers: 'tells nothing of a prompt: "None"',
    (lambda *_: {}): "does not say its version at /version, as a vLLM server does",
}


def test_a_server_that_cannot_be_believed_is_refused(tiny_models: Path, ft: VllmForm) -> None:
    """As a session refuses one of llama.cpp's: `tests/plugin/test_served.py`."""
    for lie, said in LIES.items():
        with proxy(ft.address, change=lie) as liar:
            assert said in refusal(tiny_models, f"vllm:{liar.address}")
