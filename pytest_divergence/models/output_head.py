"""A model's last step by itself: from hidden states to logits, for a few positions at a time.

The logits of all positions of a batch are the largest tensor there is once a vocabulary is large:
2,048 positions of 262,144 tokens take 2.1 GB in float32, for each model. Hidden states take a few
MB. Knows no divergence; `pytest_divergence.scoring.teacher_forcing` goes through positions in
pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pytest_divergence.models.forward import fast_matmul

WHOLE_BYTES = 128 * 2**20
"""Logits in float32 that are made at once: for fewer, pieces would only cost time."""
NUM_PROBED = 8
"""Tokens on which a head is tried."""
PROBE_ROUNDINGS = 8
"""Units in the last place of the largest logit by which the same head may differ from itself."""


class OutputHead:
    """The head of a model, and what its architecture does to logits after it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        config: Any = model.config
        text = config.get_text_config()
        self._cap = getattr(text, "final_logit_softcapping", None)  # Gemma 2
        self._factor = getattr(text, "logit_scale", None)  # Cohere
        self._divisor = getattr(text, "logits_scaling", None)  # Granite

    @property
    def _module(self) -> torch.nn.Module | None:
        module: Any = self._model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return module if isinstance(module, torch.nn.Module) else None

    def __call__(self, states: Tensor) -> Tensor:
        """Logits of hidden states, in float32: (N, D) -> (N, V)."""
        assert self._module is not None  # `is_exact` said so
        with fast_matmul():
            logits: Tensor = self._module(states.contiguous())
        if self._cap is not None:
            logits = torch.tanh(logits / self._cap) * self._cap
        if self._factor is not None:
            logits = logits * self._factor
        if self._divisor is not None:
            logits = logits / self._divisor
        return logits.float()

    @contextmanager
    def spared(self) -> Iterator[list[Tensor]]:
        """Let forward passes within it make logits of their last position only.

        The hidden states of all positions that would have become logits, (B, T, D), are added to
        the list.
        """
        reached: list[Tensor] = []

        def keep(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            reached.append(inputs[0])
            return (inputs[0][:, -1:],)

        module = self._module
        assert module is not None
        hook = module.register_forward_pre_hook(keep)
        try:
            yield reached
        finally:
            hook.remove()

    def can_wait(self, num_logits: int) -> bool:
        """Whether that many logits should be made a few at a time, and can be."""
        return num_logits * 4 > WHOLE_BYTES and self.is_exact

    @cached_property
    def is_exact(self) -> bool:
        """Whether the head by itself gives the model's own logits: tried once, on some tokens."""
        if self._module is None:
            return False
        row = torch.arange(NUM_PROBED, device=input_device(self._model))[None]
        model: Any = self._model
        with torch.no_grad(), fast_matmul(self._model):
            own: Tensor = model(input_ids=row, use_cache=False).logits
            with self.spared() as reached:
                model(input_ids=row, use_cache=False)
            if len(reached) != 1:
                return False
            made = self(reached[0][0])
        if made.shape != own[0].shape:
            return False
        return _are_same(made, own[0])


def input_device(model: PreTrainedModel) -> torch.device:
    """The device of a model's inputs: its input embeddings', also when accelerate moves them."""
    module: Any = model.get_input_embeddings()
    device: torch.device = module.weight.device
    if device.type == "meta":
        device = torch.device(module._hf_hook.execution_device)
    return device


def _are_same(made: Tensor, own: Tensor) -> bool:
    """Whether logits differ by rounding only: little anywhere, and next to nothing overall.

    A unit in the last place of a large bfloat16 logit is more than many heads add in all.
    """
    own_eps = torch.finfo(own.dtype).eps
    expected = own.to(made)
    error = made - expected
    is_near = error.abs().max() <= PROBE_ROUNDINGS * own_eps * expected.abs().max()
    # Sums are made in float32, whatever they are rounded to at the end.
    share = max(own_eps, PROBE_ROUNDINGS * torch.finfo(torch.float32).eps)
    return bool(is_near and error.norm() <= share * expected.norm())  # False for NaN too
