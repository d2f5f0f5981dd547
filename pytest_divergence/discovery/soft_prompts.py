"""Soft prompts: trained virtual tokens that stand where a user's text begins.

Prompt tuning as in Lester et al. (2021, arXiv:2104.08691), here to generate text: a model that
continues [chat prefix][soft prompt] writes prompts, and only their text is ever scored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pytest_divergence.core.errors import DivergenceError, StoreError
from pytest_divergence.core.store import user_cache, write_atomically
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


def insert(side: ModelSide, prompt_embeds: Tensor, body: Tensor) -> Tensor:
    """Embeddings of a row with the soft prompt after its first id, the end of the chat opening.

    `body` (L,) ids, `prompt_embeds` (n, D) -> (L + n, D) in the model's dtype.
    """
    embedded = side.embed(body)
    soft = prompt_embeds.to(embedded.device, embedded.dtype)
    return torch.cat([embedded[:1], soft, embedded[1:]])


def generate_prompts(
    pair: ModelPair,
    prompt_embeds: Tensor | None,
    *,
    num_prompts: int,
    max_new_tokens: int,
    seed: int,
    writers: Sequence[ModelSide] | None = None,
) -> list[str]:
    """User turns sampled at T = 1 after [chat opening][soft prompt], shared out to the writers.

    `writers` are both models unless given. Without `prompt_embeds` they write from the bare
    opening. Returns texts, stripped; empty ones are left out.
    """
    texts: list[str] = []
    writers = writers or pair.sides
    for index, side in enumerate(writers):
        count = len(range(index, num_prompts, len(writers)))
        if count:
            texts += _written_by(side, pair, prompt_embeds, count, max_new_tokens, seed)
    return texts


def _written_by(
    side: ModelSide,
    pair: ModelPair,
    prompt_embeds: Tensor | None,
    count: int,
    max_new_tokens: int,
    seed: int,
) -> list[str]:
    opening = torch.tensor(pair.chat.user_opening[-1:] or _any_start(pair), dtype=torch.long)
    with torch.no_grad():
        row = opening if prompt_embeds is None else insert(side, prompt_embeds, opening)
    continuations = decode_sampled(
        side,
        [row] * count,
        prefix=pair.chat.shared_prefix,
        max_new_tokens=max_new_tokens,
        stop_ids=pair.chat.stop_ids,
        seeds=[row_seed(seed, side.role, index) for index in range(count)],
    )
    texts = (pair.chat.text(ids).strip() for ids in continuations)
    return [text for text in texts if text]


def amplified_prompts(
    pair: ModelPair, *, alpha: float, num_prompts: int, max_new_tokens: int, seed: int
) -> list[str]:
    """User turns sampled from amplified logits after the chat opening; empty ones are left out."""
    opening = torch.tensor(pair.chat.user_opening[-1:] or _any_start(pair), dtype=torch.long)
    continuations = decode_amplified(
        *pair.sides,
        [opening] * num_prompts,
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


def _any_start(pair: ModelPair) -> Sequence[int]:
    """A model without a start token and without a template begins after an end of text."""
    return [min(pair.chat.stop_ids, default=0)]


def artefact_folder(key: str) -> Path:
    """Folder of the soft prompts that the run with this key trained; raises `StoreError`."""
    return user_cache("soft-prompts", key[:16])


def load_soft_prompts(key: str) -> list[SoftPrompt]:
    """The finished soft prompts of one run, by name."""
    paths = sorted(artefact_folder(key).glob("*.safetensors"))
    finished = [path for path in paths if not path.name.endswith(CHECKPOINT_SUFFIX)]
    return [SoftPrompt.load(path) for path in finished]
