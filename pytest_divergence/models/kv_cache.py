"""Keys and values computed once: of chat prefixes, and of prompts that are used again.

Knows the layers of key-value caches and what these forget; does not know what a prompt is used
for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from pytest_divergence.models.batching import Prefix
from pytest_divergence.models.forward import ForwardPass, Padded
from pytest_divergence.models.output_head import input_device

Row = tuple[Prefix, tuple[int, ...]]
"""A shared prefix, and the ids after it."""
Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, each (B, heads, positions, size)."""

KEPT_BYTES = 256 * 2**20
"""Limit of the keys and values that one model keeps; prompts beyond it are read again."""


@dataclass(frozen=True)
class PrefixedRows:
    """Rows of ids (L,) or embeddings (L, D), and the prefix that they continue."""

    prefix: Prefix
    """Empty if none is shared: the rows then contain it."""
    shared: Layers | None
    """Keys and values of the prefix."""
    bodies: Sequence[Tensor]

    @property
    def keys(self) -> list[Row]:
        """Each row by its ids, as a `PromptCache` knows it."""
        return [(self.prefix, tuple(body.tolist())) for body in self.bodies]

    def only(self, chosen: Sequence[int]) -> PrefixedRows:
        """Some of the rows."""
        return replace(self, bodies=[self.bodies[index] for index in chosen])

    def attention_mask(self, padded: Padded) -> Tensor:
        """Mask of all positions of the padded rows: (B, len(prefix) + padded length)."""
        shared = padded.mask.new_ones(len(padded.mask), len(self.prefix))
        return torch.cat([shared, padded.mask], dim=1)


class Prefixes:
    """The keys and values of one model's chat prefixes."""

    def __init__(
        self, model: PreTrainedModel, forward: ForwardPass, *, are_shared: bool = True
    ) -> None:
        """Compute nothing yet; share nothing if `are_shared` is False."""
        self._model = model
        self._forward = forward
        self._computed: dict[Prefix, Layers | None] = {}
        self.are_shared = are_shared and not getattr(model, "_is_stateful", False)
        """Whether the model keeps keys and values that rows can continue from."""

    @cached_property
    def _window(self) -> int | None:
        """The fewest positions that any layer attends to; None if every layer attends to all."""
        layers = DynamicCache(config=self._model.config).layers
        windows = [getattr(layer, "sliding_window", None) for layer in layers]
        return min((window for window in windows if isinstance(window, int)), default=None)

    def shared(self, prefix: Prefix, *, longest: int) -> Layers | None:
        """Keys and values that rows of at most `longest` tokens continue; None: each reads it.

        Padding lies between the prefix and a short row: a window must reach across it, and forget
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
        cache = _whole_cache(self._model)
        row = torch.tensor([prefix], device=input_device(self._model))
        positions = torch.arange(len(prefix), device=row.device)[None]
        self._forward(row, torch.ones_like(row), positions, cache, 1)
        return keys_and_values(cache, len(prefix))

    def new_cache(self, shared: Layers | None, size: int) -> DynamicCache:
        """A cache of `size` rows that have read the prefix, or nothing."""
        cache = _whole_cache(self._model)
        for index, (keys, values) in enumerate(shared or []):
            cache.update(keys.expand(size, -1, -1, -1), values.expand(size, -1, -1, -1), index)
        return cache

    def pack_left(self, cache: DynamicCache, mask: Tensor) -> Tensor:
        """Move each row's padding to its beginning if a layer has a window; return the mask.

        Each decoded token moves the window on, and padding inside a row would take up part of it.
        """
        if self._window is None or torch.equal(mask, mask.cummax(dim=1).values):
            return mask
        order = mask.argsort(dim=1, stable=True)
        layer: Any  # of many classes
        for layer in cache.layers:
            if getattr(layer, "keys", None) is None:  # a recurrent state without positions
                continue
            # Keys carry their own positions; order only decides which of them a window forgets.
            index = order[:, None, :, None].to(layer.keys.device)
            layer.keys = layer.keys.gather(2, index.expand_as(layer.keys))
            layer.values = layer.values.gather(2, index.expand_as(layer.values))
        return mask.gather(1, order)


@dataclass(frozen=True)
class ReadBatch:
    """Prompts read in one pass, padded on the left, without their shared prefix."""

    layers: Layers
    logits: Tensor
    """Logits of the token after each prompt: (B, V)."""

    @classmethod
    def of(cls, layers: Layers, logits: Tensor, *, longest: int) -> ReadBatch:
        """The batch of a pass over rows of at most `longest` tokens, with logits (B, N, V).

        Copies, so that neither each row's prefix nor the other logits stay in memory.
        """
        kept = [
            (keys[:, :, -longest:].clone(), values[:, :, -longest:].clone())
            for keys, values in layers
        ]
        return cls(kept, logits[:, -1].clone())

    @cached_property
    def num_bytes(self) -> int:
        """Memory that its tensors take."""
        tensors = [self.logits, *(tensor for layer in self.layers for tensor in layer)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


Place = tuple[ReadBatch, int]
"""The batch in which a prompt was read, and its row there."""


@dataclass
class PromptCache:
    """Prompts that one model has read, up to `KEPT_BYTES`.

    A prompt is scored, judged for its naturalness and answered in several ways, one after the
    other. All of these begin with its keys and values, and with the logits of the token after
    it.
    """

    _places: dict[Row, Place] = field(default_factory=dict)
    _num_bytes: int = 0

    def get(self, row: Row) -> Place | None:
        """Batch and row of a prompt; None if it was not read, or not kept."""
        return self._places.get(row)

    def keep(self, rows: Sequence[Row], batch: ReadBatch) -> None:
        """Remember the rows of a batch, unless they take too much memory or all are known."""
        is_new = not self._places.keys() >= set(rows)
        if is_new and self._num_bytes + batch.num_bytes <= KEPT_BYTES:
            self._num_bytes += batch.num_bytes
            self._places.update((row, (batch, index)) for index, row in enumerate(rows))

    def forget(self) -> None:
        """Forget all prompts."""
        self._places.clear()
        self._num_bytes = 0


def keys_and_values(cache: DynamicCache, num_positions: int) -> Layers | None:
    """Keys and values of all layers; None if a layer keeps less, or something else besides.

    A layer that attends to a window forgets the positions before it; other kinds of layers also
    keep a recurrent state or an index.
    """
    found: Layers = []
    for layer in cache.layers:
        is_plain = type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)  # subclasses keep more
        if not is_plain or not isinstance(layer, DynamicLayer):
            return None
        keys, values = layer.keys, layer.values
        if keys is None or values is None or keys.shape[-2] != num_positions:
            return None
        found.append((keys, values))
    return found


def gather(
    places: Sequence[Place], lengths: Sequence[int], cache: DynamicCache
) -> tuple[Tensor, DynamicCache]:
    """Logits (B, V) after prompts of these lengths, and their keys and values in one cache.

    `cache` holds those of the prefix, if any; the prompts are padded on the left to the longest of
    them.
    """
    longest = max(lengths)
    groups = list(_by_batch(places))
    for index in range(len(groups[0][0].layers)):
        parts = [_rows(batch, index, rows, longest) for batch, rows, _ in groups]
        keys, values = (torch.cat(each) for each in zip(*parts, strict=True))
        cache.update(keys, values, index)
    logits = torch.cat([_selected(batch.logits, rows) for batch, rows, _ in groups])
    order = [place for *_, positions in groups for place in positions]
    if order == sorted(order):
        return logits, cache
    back = torch.tensor(order).argsort()
    cache.reorder_cache(back)  # type: ignore[arg-type]
    return _selected(logits, back.tolist()), cache


def forked(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """A separate cache of the given rows (N,), which may repeat; the first stays as it is.

    To choose rows makes new keys and values of a plain layer, and so does each token after them, so
    they need no copy before; other kinds of layers write into what they keep.
    """
    plain = [layer for layer in cache.layers if type(layer) is DynamicLayer]
    shared = {id(tensor): tensor for layer in plain for tensor in (layer.keys, layer.values)}
    found = copy.deepcopy(cache, shared)
    # All kinds of layers can do this, each on its own device.
    found.reorder_cache(rows)  # type: ignore[arg-type]
    return found


def _whole_cache(model: PreTrainedModel) -> DynamicCache:
    """A cache in which no layer forgets: the model's mask limits how far a layer looks back.

    A config may name windows that its model does not use; there they change nothing.
    """
    cache = DynamicCache(config=model.config)
    cache.layers = [
        DynamicLayer() if type(layer) is DynamicSlidingWindowLayer else layer  # type: ignore[no-untyped-call]
        for layer in cache.layers
    ]
    return cache


def _by_batch(places: Sequence[Place]) -> Iterator[tuple[ReadBatch, list[int], list[int]]]:
    """Each batch, its rows that are wanted, and their positions among all wanted rows."""
    found: dict[int, tuple[ReadBatch, list[int], list[int]]] = {}
    for place, (batch, row) in enumerate(places):
        _, rows, positions = found.setdefault(id(batch), (batch, [], []))
        rows.append(row)
        positions.append(place)
    return iter(found.values())


def _rows(batch: ReadBatch, layer: int, rows: list[int], longest: int) -> tuple[Tensor, Tensor]:
    """Keys and values of some rows at their last `longest` positions.

    No wanted prompt is longer; positions before a shorter one are masked as padding.
    """
    keys, values = (
        pad(_selected(kept[:, :, -longest:], rows), (0, 0, max(0, longest - kept.shape[-2]), 0))
        for kept in batch.layers[layer]
    )
    return keys, values


def _selected(tensor: Tensor, rows: list[int]) -> Tensor:
    return tensor.index_select(0, torch.tensor(rows, device=tensor.device))
