"""Memory that models take, by their files, and memory that a device has.

Knows the headers of safetensors files, and what the system says of a device or of this process's
container. Does not know what a model is used for, nor what else needs memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig

from pytest_divergence.models.adapter_checks import PREFIX
from pytest_divergence.models.config_values import largest
from pytest_divergence.models.devices import has_attention
from pytest_divergence.models.folder_files import weight_files
from pytest_divergence.models.text_models import is_in_part

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of stored numbers that loading converts to the pair's dtype; others stay."""
WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "I16": 2, "U16": 2}
"""Bytes of a stored number by type; 1 for types not listed."""
ROOT = Path("/")
GROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}
"""Control groups of version 2 and 1, by controller: mount, limit, usage, what can be reclaimed."""


@dataclass(frozen=True)
class ModelSize:
    """The sizes of one model that determine its memory."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    """Width of a feed-forward block."""
    cache_size: int
    """Numbers that one layer keeps for each token it has read: keys and values.

    A layer without attention keeps a state, as large as these are for some hundred tokens.
    """
    vocab_size: int


def model_size(config: PreTrainedConfig) -> ModelSize:
    """Sizes by a model's config; where layers differ, those of the largest."""
    text: Any = config.get_text_config()
    hidden = largest(text, "hidden_size")
    cached = hidden
    if has_attention(config):
        heads = largest(text, "num_attention_heads")
        head_size = largest(text, "head_dim") or hidden // heads
        cached = (largest(text, "num_key_value_heads") or heads) * head_size
    return ModelSize(
        num_layers=text.num_hidden_layers,
        hidden_size=hidden,
        intermediate_size=largest(text, "intermediate_size") or 4 * hidden,
        cache_size=2 * cached,
        vocab_size=text.vocab_size,
    )


def weights_bytes(folder: Path, itemsize: int, parts_left_out: tuple[str, ...] = ()) -> int:
    """Bytes of a folder's weights once loaded with floats of `itemsize` bytes, without some parts.

    Raises `SafetensorError` or `OSError` for files that cannot be read.
    """
    return sum(_tensor_bytes(folder, itemsize, parts_left_out))


def available_memory(device: str) -> int | None:
    """Bytes that can still be taken on `cpu`, `cuda`, `cuda:1` or `mps`; None: unknown.

    Apple's GPUs share the host's memory.
    """
    if not device.startswith("cuda"):
        return host_memory()
    free: int = torch.cuda.mem_get_info(torch.device(device))[0]
    return free


def all_memory() -> int | None:
    """Bytes that can still be taken on the host and all GPUs together; None: unknown."""
    here = host_memory()
    if here is None:
        return None
    return here + sum(torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count()))


def host_memory(root: Path = ROOT) -> int | None:
    """Bytes that this process can still take; `root` is where the system's own files are.

    On Linux the memory available without swapping, within the limits of the process's control
    groups; elsewhere all memory, if the system says how much that is.
    """
    with suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text("utf-8").splitlines()
        line = next(each for each in lines if each.startswith("MemAvailable:"))
        return min([int(line.split()[1]) * 1024, *_left_in_groups(root)])
    with suppress(AttributeError, OSError, ValueError):  # Windows has no such question
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _tensor_bytes(folder: Path, itemsize: int, left_out: tuple[str, ...]) -> Iterator[int]:
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 (not a dict)
                if is_in_part(key.removeprefix(PREFIX), left_out):
                    continue
                part = weights.get_slice(key)
                stored = part.get_dtype()
                width = itemsize if stored in FLOATS else WIDTHS.get(stored, 1)
                yield math.prod(part.get_shape()) * width


def _left_in_groups(root: Path) -> Iterator[int]:
    """Bytes that each control group above this process leaves it."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text("utf-8").splitlines():
            _, names, path = line.split(":", 2)
            for controller in GROUPS.keys() & set(names.split(",")):
                mount, *files = GROUPS[controller]
                inside = PurePosixPath(path)
                for group in (inside, *inside.parents):
                    yield from _left_in(root / mount / str(group).lstrip("/"), *files)


def _left_in(group: Path, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    with suppress(OSError, ValueError):  # no such group here, or "max": no limit
        allowed = int((group / limit).read_text("utf-8"))
        used = int((group / usage).read_text("utf-8"))
        stat = dict(
            line.split() for line in (group / "memory.stat").read_text("utf-8").splitlines()
        )
        yield max(0, allowed - used + int(stat.get(reclaimable, 0)))
