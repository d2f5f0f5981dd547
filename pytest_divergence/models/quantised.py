"""Models whose weights are kept in few bits: what loads them, and whether gradients pass.

Does not quantise anything. A GGUF file is not meant: its weights are floats once it is converted.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models.side import ModelSide

PACKAGES = {"torchao": "torchao", "bitsandbytes": "bitsandbytes"}
"""By the method that a config names."""
NUM_PROBED = 2


def require_quantiser(config: dict[str, Any], *, role: str) -> None:
    """Raise `ModelLoadError` where a config names a method whose package is not installed."""
    method = _method(config)
    package = PACKAGES.get(method or "")
    if package is not None and importlib.util.find_spec(package) is None:
        raise ModelLoadError(
            f"{role} is quantised with {method}, which is not installed: pip install {package}"
        )


def places_itself(config: dict[str, Any]) -> bool:
    """Whether a model is put on its device as it loads, and cannot be moved afterwards."""
    return _method(config) == "bitsandbytes"


def passes_gradients(side: ModelSide) -> bool:
    """Whether a gradient that is not zero reaches a model's input embeddings: tried on two tokens.

    Models that are not quantised are taken to pass them.
    """
    if getattr(side.model, "hf_quantizer", None) is None:
        return True
    embeds = side.embed(torch.arange(NUM_PROBED)).detach().requires_grad_(True)
    try:
        logits = side.logits([embeds], num_logits=1)
        logits.log_softmax(-1)[..., 0].sum().backward()  # type: ignore[no-untyped-call]
    except Exception:  # kernels without a backward pass raise what they like
        return False
    gradient = embeds.grad
    return gradient is not None and bool(torch.isfinite(gradient).all() and gradient.any())


def _method(config: dict[str, Any]) -> str | None:
    quantisation = config.get("quantization_config")
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    return method if isinstance(method, str) else None
