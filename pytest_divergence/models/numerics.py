"""In which dtype and with which attention each model of a pair runs.

One of each for both models, but where a model's own spec names another: what is to be compared may
be just that. Reads configs; does not load weights.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models.quiet import Say, quiet_transformers
from pytest_divergence.models.resolved import ResolvedSpec, as_load_error

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SMALL_MODEL_BYTES = 4 * 1024**3


def chosen_dtypes(
    dtype: str, specs: tuple[ResolvedSpec, ResolvedSpec], device: torch.device
) -> tuple[torch.dtype, torch.dtype]:
    """The dtype that each model's spec names, else the one of both models.

    Raises `ModelLoadError` for an unknown one.
    """
    of_both = _dtype_of_both(dtype, specs, device)
    reference, candidate = (one.full_model.spec.dtype for one in specs)
    return _dtype(reference) or of_both, _dtype(candidate) or of_both


def _dtype_of_both(
    dtype: str, specs: tuple[ResolvedSpec, ResolvedSpec], device: torch.device
) -> torch.dtype:
    if (named := _dtype(None if dtype == "auto" else dtype)) is not None:
        return named
    for one in specs:
        if one.loaded is not None:  # what a plugin loaded cannot change
            return one.loaded.model.dtype
    folder = specs[0].full_model.folder
    num_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder else 0
    is_small = device.type == "cpu" or num_bytes <= SMALL_MODEL_BYTES
    return torch.float32 if is_small else torch.bfloat16


def _dtype(name: str | None) -> torch.dtype | None:
    if name is None:
        return None
    if name not in DTYPES:
        raise ModelLoadError(f"dtype={name} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def chosen_attentions(
    specs: tuple[ResolvedSpec, ResolvedSpec], say: Say = lambda _: None
) -> tuple[str, str]:
    """The attention implementation that each model's spec names, else one that both support."""
    without = sorted({name for one in specs if (name := _without_sdpa(one.full_model))})
    of_both = "eager" if without else "sdpa"
    reference, candidate = (one.full_model.spec.attn_implementation for one in specs)
    if without and None in (reference, candidate):
        say(f"{' and '.join(without)} has no sdpa attention, so eager attention is used")
    return reference or of_both, candidate or of_both


def _without_sdpa(resolved: ResolvedSpec) -> str | None:
    """The model's class where it is not written for torch's own attention, as Gemma 2 is not."""
    if resolved.loaded is not None:
        return None
    assert resolved.folder is not None  # what no plugin loads is a folder
    with quiet_transformers(), as_load_error(resolved):
        config = AutoConfig.from_pretrained(
            resolved.folder, trust_remote_code=False, local_files_only=True
        )
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return None if getattr(model, "_supports_sdpa", True) else str(model.__name__)
