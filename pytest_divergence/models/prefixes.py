"""What every row of a model begins with: chat prefixes, computed once, and caches behind them.

Knows the layers of key-value caches and what these forget; does not know what is read behind a
prefix, nor what is kept of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pytest_divergence.models.forward import ForwardPass, Padded
from pytest_divergence.models.head import input_device

Prefix = tuple[int, ...]
"""Token ids."""
Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, each (B, heads, positions, size)."""


class Prefixes:
    """The keys and values of one model's chat prefixes."""

    def __init__(self, model: PreTrainedModel, forward: ForwardPass) -> None:
        """Nothing is computed before it is asked for."""
        self._model = model
        self._forward = forward
        self._computed: dict[Prefix, Layers | None] = {}
        self._window = _shortest_window(DynamicCache(config=model.config))
        self.are_shared = not getattr(model, "_is_stateful", False)
        """Whether the model keeps keys and values at all, which rows can go on from."""

    def shared(self, prefix: Prefix, *, longest: int) -> Layers | None:
        """What rows of at most `longest` tokens go on from; None where they must read it each.

        Padding stands between a prefix and a short row: a window must reach over it, and forget
        nothing.
        """
        if not prefix or not self.are_shared:
            return None
        if self._window is not None and len(prefix) + longest >= self._window:
            return None
        if prefix not in self._computed:
            self._computed[prefix] = self._compute(prefix)
        return self._computed[prefix]

    @torch.no_grad()
    def _compute(self, prefix: Prefix) -> Layers | None:
        cache = DynamicCache(config=self._model.config)
        row = torch.tensor([prefix], device=input_device(self._model))
        positions = torch.arange(len(prefix), device=row.device)[None]
        self._forward(row, torch.ones_like(row), positions, cache, 1)
        return keys_and_values(cache, len(prefix))

    def new_cache(self, shared: Layers | None, size: int) -> DynamicCache:
        """A cache of `size` rows that have read a prefix, or nothing."""
        cache = DynamicCache(config=self._model.config)
        for index, (keys, values) in enumerate(shared or []):
            cache.update(keys.expand(size, -1, -1, -1), values.expand(size, -1, -1, -1), index)
        return cache

    def close_up(self, cache: DynamicCache, mask: Tensor) -> Tensor:
        """Where a layer has a window, move each row's padding before all else; the mask of it.

        What is decoded next moves the window on, and a gap in a row would let it see less of it.
        """
        if self._window is None or torch.equal(mask, mask.cummax(dim=1).values):
            return mask
        order = mask.argsort(dim=1, stable=True)
        layer: Any  # of many classes
        for layer in cache.layers:
            # Keys know their own place in the text: it is only what is forgotten that order tells.
            index = order[:, None, :, None].to(layer.keys.device)
            layer.keys = layer.keys.gather(2, index.expand_as(layer.keys))
            layer.values = layer.values.gather(2, index.expand_as(layer.values))
        return mask.gather(1, order)


def attention_mask(padded: Padded, shared: Layers | None) -> Tensor:
    """Of all positions of rows behind a prefix: (B, len(prefix) + padded positions)."""
    num_shared = shared[0][0].shape[-2] if shared else 0
    return torch.cat([padded.mask.new_ones(len(padded.mask), num_shared), padded.mask], dim=1)


def keys_and_values(cache: DynamicCache, num_positions: int) -> Layers | None:
    """Of all layers; None where one of them does not hold each of the positions that were read.

    A layer that attends to a window forgets what lies before it.
    """
    found: Layers = []
    for layer in cache.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if not isinstance(keys, Tensor) or not isinstance(values, Tensor):
            return None
        if keys.shape[-2] != num_positions:
            return None
        found.append((keys, values))
    return found


def _shortest_window(cache: DynamicCache) -> int | None:
    """The fewest positions that a layer attends to; None where each attends to all."""
    windows = [getattr(layer, "sliding_window", None) for layer in cache.layers]
    return min((one for one in windows if isinstance(one, int)), default=None)
