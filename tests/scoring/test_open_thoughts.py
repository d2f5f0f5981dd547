"""Replies with open thoughts: each model thinks up to a limit, closes its thoughts and answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.continuations import Continuations, greedy_continuations
from pytest_divergence.scoring.scorer import score_prompts
from tests.models_in_memory import bare_logits, local, tiny_config, tiny_model
from tests.thinking import CHANNELS, OPENED, SWITCHED, thinking_tokenizer

TOKENIZER = thinking_tokenizer()
PROMPTS = ["How do I tie a knot?", "Why?", "Name a colour of the sky at night."]
THOUGHTS, ANSWER = 6, 4


def thinking_pair(template: str, *, bias: dict[str, float]) -> ModelPair:
    """Two models whose output head is biased towards some tokens, so that they write them."""
    config = tiny_config(LlamaConfig, vocab_size=len(TOKENIZER))
    models: list[Any] = [tiny_model(config=config), tiny_model(config=config, perturb=0.3)]
    for model in models:
        head = torch.nn.Linear(32, len(TOKENIZER))
        head.weight = model.lm_head.weight
        with torch.no_grad():
            head.bias.zero_()
            for token, nats in bias.items():
                head.bias[TOKENIZER.convert_tokens_to_ids(token)] = nats
        model.lm_head = head
    pair = ModelPair.from_models(models[0], models[1], TOKENIZER)
    arguments = {**pair.chat.arguments, "enable_thinking": True}
    chat = replace(pair.chat, template=template, arguments=arguments, thought_length=THOUGHTS)
    return replace(pair, chat=chat)


@torch.no_grad()
def by_hand(pair: ModelPair, role: str, prompt: str) -> tuple[int, ...]:
    """One greedy reply, by plain passes of one row without a cache."""
    model, replies = local(getattr(pair, role)).model, pair.chat.open_replies
    assert replies is not None
    start = pair.chat.prompt_ids(prompt)

    def write(ids: list[int], count: int, stop_ids: frozenset[int | None]) -> list[int]:
        written: list[int] = []
        while len(written) < count and not (written and written[-1] in stop_ids):
            row: Tensor = torch.tensor([[*ids, *written]])
            written.append(int(bare_logits(model, row)[-1].argmax()))
        return written

    stop_ids = frozenset[int | None](pair.chat.stop_ids)
    thoughts = write(start, THOUGHTS, stop_ids | {replies.stop_id})
    if thoughts[-1] in stop_ids:
        return tuple(thoughts)
    closed = replies.closed(thoughts)
    if closed is None:
        return tuple(write(start, ANSWER, stop_ids))
    return (*closed, *write([*start, *closed], ANSWER, stop_ids))


CASES = {
    "cut at the limit": (OPENED, {"<think>": -99.0, "</think>": -99.0}),
    "closed at once": (OPENED, {"</think>": 9.0}),
    "channels": (CHANNELS, {"<|channel|>": -99.0}),
    "no thoughts": (SWITCHED, {"<think>": -99.0}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_reply_is_what_plain_passes_write(case: str) -> None:
    template, bias = CASES[case]
    pair = thinking_pair(template, bias=bias)

    found = greedy_continuations(pair, PROMPTS, max_new_tokens=ANSWER)

    for prompt, both in zip(PROMPTS, found, strict=True):
        for role in ("reference", "candidate"):
            (written,) = getattr(both, role)
            assert written == by_hand(pair, role, prompt)
    if case != "no thoughts" and case != "channels":
        assert all("⟨answer⟩" in pair.chat.text(both.candidate[0]) for both in found)


def test_thoughts_that_end_the_turn_have_no_answer() -> None:
    pair = thinking_pair(OPENED, bias={"<|im_end|>": 99.0})

    (found,) = greedy_continuations(pair, PROMPTS[:1], max_new_tokens=ANSWER)

    assert found == Continuations(((2,),), ((2,),))
    assert pair.chat.text(found.candidate[0]) == "⟨thoughts⟩ "


def test_a_sampled_reply_does_not_depend_on_the_other_prompts() -> None:
    pair = thinking_pair(OPENED, bias={})

    whole = score_prompts(pair, PROMPTS, num_continuations=3, max_new_tokens=ANSWER)
    alone = score_prompts(pair, PROMPTS[1:2], num_continuations=3, max_new_tokens=ANSWER)

    assert whole[1].continuations == alone[0].continuations
    assert whole[1].measurement.value == pytest.approx(alone[0].measurement.value, abs=1e-6)
    replies = [*alone[0].continuations.reference, *alone[0].continuations.candidate]
    assert len(set(replies)) == len(replies)
    assert whole[1].measurement.num_tokens > 6 * ANSWER


def test_an_answer_has_draws_of_its_own() -> None:
    """On models that see nothing of their context, thoughts and answer are chance alone."""
    pair = thinking_pair(OPENED, bias={"<|im_end|>": -99.0, "</think>": -99.0})
    for side in pair.sides:
        with torch.no_grad():
            local(side).model.lm_head.weight.zero_()

    (score,) = score_prompts(pair, PROMPTS[:1], num_continuations=1, max_new_tokens=ANSWER)

    for (ids,) in (score.continuations.reference, score.continuations.candidate):
        assert ids[:ANSWER] != ids[-ANSWER:]
