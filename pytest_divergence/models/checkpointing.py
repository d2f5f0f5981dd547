"""Layers whose inner values are computed again in the backward pass instead of kept for it.

The checkpointing of transformers needs a model in training mode, where some layers drop out, and
its recomputation does not know that an adapter was switched off meanwhile: the loss would be the
same and the gradient wrong. Here the side is activated again for each layer that is recomputed
(Chen et al. 2016, arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.models.switches import Activate


@contextmanager
def checkpointed_layers(model: nn.Module, activate: Activate, *, role: str) -> Iterator[None]:
    """Let forward passes within it keep only each layer's input for gradients.

    The pass must not use a key-value cache: layers would add to it twice. Raises `SettingsError`
    for a model without layers that can be recomputed.
    """
    layers: list[Any] = [
        module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    if not layers:
        raise SettingsError(
            f"gradient_checkpointing=True: the {role}, a {type(model).__name__}, has no "
            "layers that transformers can recompute; leave it out"
        )
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(_recomputed, activate, layer.forward)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                del layer.forward
            else:  # accelerate has put one there
                layer.forward = own


def _recomputed(
    activate: Activate, forward: Callable[..., object], *args: Any, **options: Any
) -> object:
    if not torch.is_grad_enabled():
        return forward(*args, **options)
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing is random in a frozen model
        context_fn=lambda: (nullcontext(), activate()),
        **options,
    )
