"""Soft prompts: trained virtual tokens that stand before, inside or after a user's text.

Prompt tuning as in Lester et al. (2021, arXiv:2104.08691), here to generate text: a model that
continues [chat prefix][soft prompt] writes prompts, and only their text is ever scored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pytest_divergence.core.errors import DivergenceError, SettingsError, StoreError
from pytest_divergence.core.files import user_cache, write_atomically
from pytest_divergence.discovery.soft_prompts.training_config import Position
from pytest_divergence.models.chat_format import ChatFormat
from pytest_divergence.models.decoding import decode_amplified, decode_sampled, row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import ModelSide

CHECKPOINT_SUFFIX = ".checkpoint.safetensors"


@dataclass(frozen=True)
class SoftPrompt:
    """Virtual tokens in the models' embedding space."""

    name: str
    prompt_embeds: Tensor
    """(num_virtual_tokens, hidden size), float32, on the CPU."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """How it was trained."""

    @property
    def num_virtual_tokens(self) -> int:
        """Length of the soft prompt."""
        return len(self.prompt_embeds)

    def save(self, path: Path) -> None:
        """Write a safetensors file with the settings as its metadata; raises `StoreError`."""
        metadata = {"name": self.name, "settings": json.dumps(dict(self.settings), sort_keys=True)}
        tensors = {"prompt_embeds": self.prompt_embeds.detach().contiguous().cpu()}
        write_atomically(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: Path) -> SoftPrompt:
        """Read a file that `save` wrote; raises `StoreError` for any other."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                return cls(
                    metadata["name"],
                    file.get_tensor("prompt_embeds"),
                    json.loads(metadata["settings"]),
                )
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise StoreError(f"{path} is not a soft prompt of this plugin: {error}") from error


def insert(side: ModelSide, prompt_embeds: Tensor, body: Tensor, *, at: int = 1) -> Tensor:
    """Embeddings of a row with the soft prompt in front of its id number `at`.

    By default that is behind its first id, the end of the chat opening. `body` (L,) ids,
    `prompt_embeds` (n, D) -> (L + n, D) in the model's dtype.
    """
    embedded = side.embed(body)
    soft = prompt_embeds.to(embedded.device, embedded.dtype)
    return torch.cat([embedded[:at], soft, embedded[at:]])


def place_in(chat: ChatFormat, body: Tensor, position: Position) -> int:
    """Where in a prompt's ids after the shared prefix the soft prompt stands: `at` of `insert`."""
    num_opening = _num_opening(chat)
    num_suffix = len(chat.user_suffix) if chat.template is not None else 0
    num_text = max(0, len(body) - num_opening - num_suffix)
    num_before = {"before": 0, "inside": num_text // 2, "after": num_text}[position]
    return max(1, num_opening + num_before)


def _num_opening(chat: ChatFormat) -> int:
    """Ids of the opening that stay with each row: its last, where there is any."""
    return min(1, len(chat.user_opening))


def generate_prompts(
    pair: ModelPair,
    prompt_embeds: Tensor | None,
    *,
    num_prompts: int,
    max_new_tokens: int,
    seed: int,
    writers: Sequence[ModelSide] | None = None,
    position: Position = "before",
    texts: Sequence[str] = (),
) -> list[str]:
    """User turns sampled at T = 1 after [chat opening][soft prompt], shared out to the writers.

    `writers` are both models unless given. Without `prompt_embeds` they write from the bare
    opening. A soft prompt that stands `inside` or `after` the text has one of `texts`, in turns,
    or the first half of it, between the opening and itself: what is written goes on from there,
    and the prompt is both. Returns texts, stripped; those to which nothing was written are left
    out. Raises `SettingsError` where texts are needed and there are none.
    """
    written: list[str] = []
    starts = _starts(pair, position, texts)
    writers = writers or pair.sides
    for index, side in enumerate(writers):
        count = len(range(index, num_prompts, len(writers)))
        if count:
            numbers = (index + turn * len(writers) for turn in range(count))
            # In turns, and in the next round each text has another writer.
            chosen = [starts[(number + number // len(starts)) % len(starts)] for number in numbers]
            written += _written_by(side, pair, prompt_embeds, chosen, max_new_tokens, seed)
    return written


def _starts(pair: ModelPair, position: Position, texts: Sequence[str]) -> list[_Start]:
    """What may stand before the soft prompt."""
    if position == "before":
        return [_Start(_opening(pair), [])]
    bodies = [body for prefix, body in pair.prompt_rows(texts) if prefix == pair.chat.shared_prefix]
    if not bodies:
        raise SettingsError(
            f"a soft prompt with position={position!r} stands behind a text; give `texts`, single "
            "user turns, to write on from"
        )
    num_opening = _num_opening(pair.chat)
    starts = [body[: place_in(pair.chat, body, position)] for body in bodies]
    return [_Start(ids, ids[num_opening:].tolist()) for ids in starts]


class _Start(NamedTuple):
    """What stands before a soft prompt."""

    ids: Tensor
    """After the shared prefix: (L,)."""
    text_ids: list[int]
    """Those of them that are the user's."""


def _written_by(
    side: ModelSide,
    pair: ModelPair,
    prompt_embeds: Tensor | None,
    starts: Sequence[_Start],
    max_new_tokens: int,
    seed: int,
) -> list[str]:
    chat = pair.chat
    with torch.no_grad():
        rows = [
            ids if prompt_embeds is None else insert(side, prompt_embeds, ids, at=len(ids))
            for ids, _ in starts
        ]
    continuations = decode_sampled(
        side,
        rows,
        prefix=chat.shared_prefix,
        max_new_tokens=max_new_tokens,
        stop_ids=chat.stop_ids,
        seeds=[row_seed(seed, side.role, index) for index in range(len(rows))],
    )
    # Decoded together: where a text goes on inside a word, its pieces do not decode alone.
    return [
        chat.text([*start.text_ids, *ids]).strip()
        for start, ids in zip(starts, continuations, strict=True)
        if chat.text(ids).strip()
    ]


def _opening(pair: ModelPair) -> Tensor:
    """The end of the chat opening; without one a model begins after an end of text."""
    chat = pair.chat
    return torch.tensor(chat.user_opening[-1:] or [min(chat.stop_ids, default=0)])


def amplified_prompts(
    pair: ModelPair, *, alpha: float, num_prompts: int, max_new_tokens: int, seed: int
) -> list[str]:
    """User turns sampled from amplified logits after the chat opening; empty ones are left out."""
    continuations = decode_amplified(
        *pair.sides,
        [_opening(pair)] * num_prompts,
        prefix=pair.chat.shared_prefix,
        max_new_tokens=max_new_tokens,
        stop_ids=pair.chat.stop_ids,
        alpha=alpha,
        seeds=[row_seed(seed, "amplified", index) for index in range(num_prompts)],
    )
    texts = (pair.chat.text(ids).strip() for ids in continuations)
    return [text for text in texts if text]


def without_system_turn(pair: ModelPair) -> ModelPair:
    """The same models under an empty system turn, where the template takes one."""
    if pair.chat.template is None:
        return pair
    emptied = replace(pair, chat=replace(pair.chat, system_prompt=""))
    try:
        _ = emptied.chat.user_opening
    except DivergenceError:  # a template that knows no system turn: there is none already
        return pair
    return emptied


def artefact_folder(key: str) -> Path:
    """Folder of the soft prompts that the run with this key trained; raises `StoreError`."""
    return user_cache("soft-prompts", key[:16])


def load_soft_prompts(key: str) -> list[SoftPrompt]:
    """The finished soft prompts of one run, by name."""
    paths = sorted(artefact_folder(key).glob("*.safetensors"))
    finished = [path for path in paths if not path.name.endswith(CHECKPOINT_SUFFIX)]
    return [SoftPrompt.load(path) for path in finished]
