"""A model in training, measured and left as it was.

Knows what measuring changes: which weights want gradients, the mode of each part, the adapters that
are on, a forward that mixed precision wraps, and the random states. Does not know what is measured.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_STATE = ("_disable_adapters", "_active_adapter")
"""Fields of PEFT's layers that say which adapters are on."""


@contextmanager
def as_before(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Undo at its end whatever measuring has changed of a model, and of the random states.

    Within it the model computes in the precision of its weights, without autocast: both models of a
    pair then compute alike.
    """
    with ExitStack() as stack:
        for undo in (_random_states, _flags, _own_precision):
            stack.enter_context(undo(model))
        yield


@contextmanager
def _flags(model: nn.Module) -> Iterator[None]:
    modules = list(model.modules())
    modes = [module.training for module in modules]
    wanted = [(weight, weight.requires_grad) for weight in model.parameters()]
    adapters = [
        (module, name, vars(module)[name])
        for module in modules
        for name in ADAPTER_STATE
        if name in vars(module)
    ]
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for weight, is_wanted in wanted:
            weight.requires_grad_(is_wanted)
        for module, name, value in adapters:
            setattr(module, name, value)


@contextmanager
def _own_precision(model: nn.Module) -> Iterator[None]:
    """Take away accelerate's autocast, which keeps the model's own forward beside its own."""
    wrapped, own = (vars(model).get(name) for name in ("forward", "_original_forward"))
    if wrapped is None or own is None:
        yield
        return
    model.forward = own
    try:
        yield
    finally:
        model.forward = wrapped


@contextmanager
def _random_states(model: nn.Module) -> Iterator[None]:
    places = {weight.device for weight in model.parameters() if weight.device.type != "cpu"}
    python, numpy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for place in sorted(places, key=str):
            forked = torch.random.fork_rng(devices=[place.index or 0], device_type=place.type)
            stack.enter_context(forked)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
