"""How large a model is, read from its files: no weights are loaded.

Knows the headers of safetensors files and config.json. Does not know what a model is used for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLOATS = ("F64", "F32", "F16", "BF16")
"""Stored numbers that loading turns into the pair's dtype; others stay as they are."""
WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "I16": 2, "U16": 2}
"""Bytes of a stored number; 1 where nothing is said here."""


@dataclass(frozen=True)
class ModelSize:
    """The sizes of one model that its memory follows from."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    """Width of a feed-forward block."""
    cache_size: int
    """Numbers that one layer keeps of each token it has read: keys and values."""
    vocab_size: int


def model_size(folder: Path) -> ModelSize:
    """Sizes by a folder's config. Raises what transformers raises for one that it cannot read."""
    from transformers import AutoConfig

    whole: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    config: Any = whole.get_text_config()
    hidden, heads = config.hidden_size, config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or hidden // heads
    return ModelSize(
        num_layers=config.num_hidden_layers,
        hidden_size=hidden,
        intermediate_size=getattr(config, "intermediate_size", None) or 4 * hidden,
        cache_size=2 * (getattr(config, "num_key_value_heads", None) or heads) * head_size,
        vocab_size=config.vocab_size,
    )


def weights_bytes(folder: Path, itemsize: int) -> int:
    """Bytes of a folder's weights once loaded with floats of `itemsize` bytes.

    Raises `SafetensorError` or `OSError` for files that cannot be read.
    """
    return sum(_tensor_bytes(folder, itemsize))


def _tensor_bytes(folder: Path, itemsize: int) -> Iterator[int]:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 (not a dict)
                one = weights.get_slice(key)
                stored = one.get_dtype()
                width = itemsize if stored in FLOATS else WIDTHS.get(stored, 1)
                yield math.prod(one.get_shape()) * width
