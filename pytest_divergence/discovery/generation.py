"""Prompts that the models write: unguided, after a soft prompt, or from amplified logits.

A model that continues [chat prefix][soft prompt] writes a user's turn, and only its text is ever
scored. Does not know how a soft prompt is trained, nor who asks for prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from pytest_divergence.core.errors import DivergenceError, SettingsError
from pytest_divergence.discovery.soft_prompts.training_config import Position
from pytest_divergence.discovery.soft_prompts.virtual_tokens import insert, num_opening, place_in
from pytest_divergence.models.decoding import decode_amplified, decode_sampled, row_seed
from pytest_divergence.models.pair import ModelPair, with_gradients
from pytest_divergence.models.side import Side


def generate_prompts(
    pair: ModelPair,
    prompt_embeds: Tensor | None,
    *,
    num_prompts: int,
    max_new_tokens: int,
    seed: int,
    writers: Sequence[Side] | None = None,
    position: Position = "before",
    texts: Sequence[str] = (),
    temperature: float = 1.0,
) -> list[str]:
    """Sample user turns after [chat opening][soft prompt], an equal share per writer.

    `writers` are both models unless given. Without `prompt_embeds` they write from the bare
    opening. A soft prompt `inside` or `after` the text follows one of `texts`, in turns, or its
    first half: writers continue that text, and the prompt is both parts. Returns texts, stripped,
    without those that nobody continued. Raises `SettingsError` where texts are needed and there are
    none.
    """
    written: list[str] = []
    starts = _starts(pair, position, texts)
    writers = writers or pair.sides
    for index, side in enumerate(writers):
        count = len(range(index, num_prompts, len(writers)))
        if count:
            numbers = (index + turn * len(writers) for turn in range(count))
            # In turns; in the next round each text has another writer.
            chosen = [starts[(number + number // len(starts)) % len(starts)] for number in numbers]
            written += _written_by(
                side, pair, prompt_embeds, chosen, max_new_tokens, seed, temperature
            )
    return written


def amplified_prompts(
    pair: ModelPair, *, alpha: float, num_prompts: int, max_new_tokens: int, seed: int
) -> list[str]:
    """Sample user turns from amplified logits after the chat opening; leave out empty ones."""
    continuations = decode_amplified(
        *pair.sides,
        [_opening(pair)] * num_prompts,
        prefix=pair.chat.shared_prefix,
        max_new_tokens=max_new_tokens,
        stop_ids=pair.chat.stop_ids,
        alpha=alpha,
        seeds=[row_seed(seed, "amplified", index) for index in range(num_prompts)],
    )
    texts = (pair.chat.user_text(row.ids).strip() for row in continuations)
    return [text for text in texts if text]


def without_system_turn(pair: ModelPair) -> ModelPair:
    """Return the pair with an empty system turn, where the template takes one."""
    if pair.chat.template is None:
        return pair
    emptied = replace(pair, chat=replace(pair.chat, system_prompt=""))
    try:
        _ = emptied.chat.user_opening
    except DivergenceError:  # a template without system turns has none to empty
        return pair
    return emptied


class _Start(NamedTuple):
    """Ids before a soft prompt."""

    ids: Tensor
    """After the shared prefix: (L,)."""
    text_ids: list[int]
    """The user's part of them."""


def _starts(pair: ModelPair, position: Position, texts: Sequence[str]) -> list[_Start]:
    """Return the ids that may precede the soft prompt."""
    if position == "before":
        return [_Start(_opening(pair), [])]
    bodies = [body for prefix, body in pair.prompt_rows(texts) if prefix == pair.chat.shared_prefix]
    if not bodies:
        raise SettingsError(
            f"a soft prompt with position={position!r} continues a text; give `texts`, a list of "
            "single user turns"
        )
    opening = num_opening(pair.chat)
    starts = [body[: place_in(pair.chat, body, position)] for body in bodies]
    return [_Start(ids, ids[opening:].tolist()) for ids in starts]


def _written_by(
    side: Side,
    pair: ModelPair,
    prompt_embeds: Tensor | None,
    starts: Sequence[_Start],
    max_new_tokens: int,
    seed: int,
    temperature: float,
) -> list[str]:
    chat = pair.chat
    with torch.no_grad():
        rows = [ids for ids, _ in starts]
        if prompt_embeds is not None:
            embedding = with_gradients(pair, side)
            rows = [insert(embedding, prompt_embeds, ids, at=len(ids)) for ids in rows]
    continuations = decode_sampled(
        side,
        rows,
        prefix=chat.shared_prefix,
        max_new_tokens=max_new_tokens,
        stop_ids=chat.stop_ids,
        seeds=[row_seed(seed, side.role, index) for index in range(len(rows))],
        temperature=temperature,
    )
    # Decoded together: a continuation may begin inside a word, so its pieces do not decode alone.
    return [
        chat.user_text([*start.text_ids, *ids]).strip()
        for start, ids in zip(starts, continuations, strict=True)
        if chat.user_text(ids).strip()
    ]


def _opening(pair: ModelPair) -> Tensor:
    """The end of the chat opening; without one a model begins after an end of text."""
    chat = pair.chat
    return torch.tensor(chat.user_opening[-1:] or [min(chat.stop_ids, default=0)])
