"""A soft prompt: virtual tokens, their place in a user's turn, and the files that keep them.

Prompt tuning as in Lester et al. (2021, arXiv:2104.08691). Does not know how a soft prompt is
trained, nor what is written after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pytest_divergence.core.errors import StoreError
from pytest_divergence.core.files import user_cache, write_atomically
from pytest_divergence.discovery.soft_prompts.training_config import Position
from pytest_divergence.models.chat_format import ChatFormat
from pytest_divergence.models.side import SideWithGradients

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
        write_atomically(path, _in_order(save(tensors, metadata)))

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


def _in_order(data: bytes) -> bytes:
    """Return a safetensors file with its header sorted: the library's order is random."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # the format aligns the tensors by spaces
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def insert(side: SideWithGradients, prompt_embeds: Tensor, body: Tensor, *, at: int = 1) -> Tensor:
    """Embeddings of a row with the soft prompt in front of its id number `at`.

    By default that is behind its first id, the end of the chat opening. `body` (L,) ids,
    `prompt_embeds` (n, D) -> (L + n, D) in the model's dtype.
    """
    embedded = side.embed(body)
    soft = prompt_embeds.to(embedded.device, embedded.dtype)
    return torch.cat([embedded[:at], soft, embedded[at:]])


def place_in(chat: ChatFormat, body: Tensor, position: Position) -> int:
    """Where in a prompt's ids after the shared prefix the soft prompt stands: `at` of `insert`."""
    opening = num_opening(chat)
    num_suffix = len(chat.user_suffix) if chat.template is not None else 0
    num_text = max(0, len(body) - opening - num_suffix)
    num_before = {"before": 0, "inside": num_text // 2, "after": num_text}[position]
    return max(1, opening + num_before)


def num_opening(chat: ChatFormat) -> int:
    """Ids of the opening that stay with each row: its last, where there is any."""
    return min(1, len(chat.user_opening))


def artefact_folder(key: str) -> Path:
    """Folder of the soft prompts that the run with this key trained; raises `StoreError`."""
    return user_cache("soft-prompts", key[:16])


def load_soft_prompts(key: str) -> list[SoftPrompt]:
    """The finished soft prompts of one run, by name."""
    paths = sorted(artefact_folder(key).glob("*.safetensors"))
    finished = [path for path in paths if not path.name.endswith(CHECKPOINT_SUFFIX)]
    return [SoftPrompt.load(path) for path in finished]
