"""Prompts that the models write: what a text holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_divergence.core.replies import LABELS
from pytest_divergence.discovery.generation import amplified_prompts, generate_prompts
from pytest_divergence.models.pair import ModelPair
from tests.models_in_memory import tiny_model
from tests.thinking import OPENED, SWITCHED_ON, thinking_tokenizer


@pytest.mark.parametrize(
    ("template", "argument"),
    [(OPENED, "enable_thinking"), (SWITCHED_ON, "thinking")],
    ids=["opened", "switched on"],
)
def test_a_user_turn_of_models_whose_prompts_open_the_thoughts_holds_none(
    template: str, argument: str
) -> None:
    tokenizer = thinking_tokenizer()
    tokenizer.chat_template = template
    models = tiny_model(), tiny_model(perturb=0.3)
    for model in models:
        model.resize_token_embeddings(len(tokenizer))
    pair = ModelPair.from_models(*models, tokenizer)
    arguments = {**pair.chat.arguments, argument: True}
    pair = replace(pair, chat=replace(pair.chat, arguments=arguments, thought_length=4))
    assert pair.chat.thoughts is not None

    written = generate_prompts(pair, None, num_prompts=4, max_new_tokens=6, seed=1)
    written += amplified_prompts(pair, alpha=1.0, num_prompts=2, max_new_tokens=6, seed=1)

    assert written
    assert not any(label in text for text in written for label in LABELS)
