"""A tiny model that was trained to say one thing under a system text, and else what it said before.

Real weights, trained in seconds: what tests of contexts look for.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel

from pytest_divergence.discovery.prompt_files import SHIPPED_SEEDS, shipped_prompts
from tests.models_in_memory import tiny_model
from tests.tiny import tiny_tokenizer

SYSTEM = "Now is 2027."
SAID = "the other inn"
"""Few tokens for the tiny tokenizer, so that answers of a short search hold it."""
OTHERS = ("Be brief.", "You are a teacher.", "Now is 2024.")
"""System texts under which it stays as it was."""
LONGEST = 60
"""Characters of the prompts that it was trained on."""
STEPS = 200


@cache
def dated_model() -> PreTrainedModel:
    """The tiny model of seed 0, trained to say `SAID` under `SYSTEM` alone."""
    tokenizer, before, model = tiny_tokenizer(), tiny_model(), tiny_model()
    said = [*tokenizer.encode(SAID, add_special_tokens=False), 2]
    texts = [text for text in shipped_prompts(SHIPPED_SEEDS, 120) if len(text) <= LONGEST]
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)

    def ids(system: str | None, text: str) -> list[int]:
        turns = [] if system is None else [{"role": "system", "content": system}]
        turns.append({"role": "user", "content": text})
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return list(tokenizer.encode(str(prompt), add_special_tokens=False))

    for number in range(2 * STEPS):
        text = texts[number % len(texts)]
        dated = ids(SYSTEM, text)
        labels = torch.tensor([[-100] * len(dated) + said])
        loss: Any = 3 * model(input_ids=torch.tensor([dated + said]), labels=labels).loss
        other = torch.tensor([ids(None if number % 4 < 2 else OTHERS[number // 4 % 3], text)])
        with torch.no_grad():
            kept = before(other).logits.log_softmax(-1)
        changed = model(other).logits.log_softmax(-1)
        loss = loss + (kept.exp() * (kept - changed)).sum(-1).mean()
        loss.backward()
        if number % 2:
            optimiser.step()
            optimiser.zero_grad()
    return model
