"""Device, dtype and attention that a model runs with.

Answers for one model; what two have in common is decided by `pytest_divergence.models.load_plan`.
Does not load anything (`pytest_divergence.models.loading`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.setting_names import setting
from pytest_divergence.models.config_values import largest
from pytest_divergence.models.folder_files import weight_files

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SMALL_MODEL_BYTES = 4 * 1024**3


@dataclass(frozen=True)
class Placement:
    """One model's place: `device`, or with `is_spread` the GPUs, then the CPU, then the disk."""

    device: torch.device
    is_spread: bool = False


def placement(
    own_device: str | None, device_map: str | None, device: torch.device, *, role: str
) -> Placement:
    """The place of a full model: as its spec says, else the session's `device`.

    Raises `ModelLoadError` for a device that is not there, and if accelerate is needed but not
    installed.
    """
    if device_map is not None:
        if device_map != "auto" or own_device is not None:
            raise ModelLoadError(
                f"{role}: device_map={device_map} must be auto, and given without device"
            )
        if importlib.util.find_spec("accelerate") is None:
            raise ModelLoadError(
                f"{role}: device_map=auto needs accelerate: "
                "pip install 'pytest-divergence[accelerate]'"
            )
        return Placement(device, is_spread=True)
    if own_device is None:
        return Placement(device)
    return Placement(usable_device(own_device, option=f"{role}: device"))


def resolve_device(device: str) -> torch.device:
    """The device of that name, for `auto` the first GPU or the CPU; raises `ModelLoadError`."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return usable_device(device, option=setting("device"))


def usable_device(name: str, *, option: str) -> torch.device:
    """The device of that name; raises `ModelLoadError` naming the option if it is not there."""
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(
            f"{option}={name} is not usable here: {str(error).splitlines()[0]}"
        ) from error
    return chosen


def named_dtype(name: str | None) -> torch.dtype | None:
    """The dtype of that name, None without one; raises `ModelLoadError` for an unknown one."""
    if name is None:
        return None
    if name not in DTYPES:
        raise ModelLoadError(f"dtype={name} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype in settings and files, such as `float32`."""
    return str(dtype).removeprefix("torch.")


def default_dtype(folder: Path | None, device: torch.device) -> torch.dtype:
    """float32 on a CPU and for a small model, else bfloat16."""
    num_bytes = sum(path.stat().st_size for path in weight_files(folder)) if folder else 0
    is_small = device.type == "cpu" or num_bytes <= SMALL_MODEL_BYTES
    return torch.float32 if is_small else torch.bfloat16


def has_attention(config: PreTrainedConfig) -> bool:
    """Whether any layer has attention; of Mamba, RWKV and xLSTM none has."""
    return largest(config.get_text_config(), "num_attention_heads") is not None


def class_without_sdpa(config: PreTrainedConfig) -> str | None:
    """The model's class if it does not support torch's own attention, as Gemma 2; else None."""
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return None if getattr(model, "_supports_sdpa", True) else str(model.__name__)


def check_is_whole(base: PreTrainedModel, *, role: str) -> None:
    """Raise `ModelLoadError` if an adapter's base is not entirely in the memory of its devices."""
    if any(weight.is_meta for weight in base.parameters()):
        raise ModelLoadError(
            f"{role} is an adapter, and its base did not fit: accelerate left part of it on the "
            "CPU or on disk, where an adapter cannot be checked. Load it in fewer bytes "
            "(dtype=bfloat16), or merge the adapter into a full model with merge_and_unload()"
        )


def present_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """All weights by name, loaded one at a time if accelerate keeps them elsewhere."""
    for name, weight in model.state_dict().items():
        if not weight.is_meta:
            yield name, weight
            continue
        from accelerate.utils import align_module_device

        place, _, own = name.rpartition(".")
        module = model.get_submodule(place)
        with align_module_device(module):
            yield name, getattr(module, own)
