"""How natural a prompt is: read on the user's own tokens, independent of the batch."""

from __future__ import annotations

import pytest
import torch

from pytest_divergence.core.cases import Message
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import prompt_nlls
from tests.models_in_memory import bare_logits, tiny_pair
from tests.scoring.made_prompts import PROMPTS

EXACT = 1e-5


def test_prompt_nll_is_of_the_users_tokens_only(pair: ModelPair) -> None:
    prompt = PROMPTS[1]
    ids = pair.chat.prompt_ids(prompt)
    user_ids = pair.chat.tokenizer.encode(prompt, add_special_tokens=False)
    start = len(pair.chat.user_opening)
    assert ids[start : start + len(user_ids)] == user_ids
    with torch.no_grad():
        logprobs = bare_logits(pair.reference.model, torch.tensor([ids])).log_softmax(-1)
    picked = [float(logprobs[start - 1 + i, token]) for i, token in enumerate(user_ids)]

    nll = prompt_nlls(pair, pair.reference, [prompt])[0]

    assert nll == pytest.approx(-sum(picked) / len(picked), abs=EXACT)


def test_prompt_nll_does_not_depend_on_the_batch(pair: ModelPair) -> None:
    conversation = [Message(role="system", content="Be brief."), Message(role="user", content="Hi")]
    prompts: list[Prompt] = [*PROMPTS, conversation]

    together = prompt_nlls(pair, pair.reference, prompts)

    for prompt, nll in zip(prompts, together, strict=True):
        assert prompt_nlls(pair, pair.reference, [prompt])[0] == pytest.approx(nll, abs=EXACT)


def test_prompt_nll_of_a_base_models_empty_prompt_is_zero() -> None:
    pair = tiny_pair(chat_template=None)

    assert prompt_nlls(pair, pair.reference, [""]) == [0.0]
