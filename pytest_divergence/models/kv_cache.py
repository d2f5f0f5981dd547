"""Keys and values that are computed once: of chat prefixes, and of prompts that are read again.

Knows the layers of key-value caches and what these forget; does not know what is asked of a prompt
that was read.
"""

from __future__ import annotations

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
"""A prefix that is shared, and the ids after it."""
Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, each (B, heads, positions, size)."""

KEPT_BYTES = 256 * 2**20
"""Of keys and values that one model keeps: what is read beyond them is read again."""


@dataclass(frozen=True)
class PrefixedRows:
    """Rows of ids (L,) or embeddings (L, D), and what they go on from."""

    prefix: Prefix
    """Empty where none is shared: then it stands in the rows."""
    shared: Layers | None
    """Keys and values of it."""
    bodies: Sequence[Tensor]

    @property
    def keys(self) -> list[Row]:
        """Each row by its ids, as a `PromptCache` knows it."""
        return [(self.prefix, tuple(body.tolist())) for body in self.bodies]

    def only(self, chosen: Sequence[int]) -> PrefixedRows:
        """Some of the rows."""
        return replace(self, bodies=[self.bodies[index] for index in chosen])

    def attention_mask(self, padded: Padded) -> Tensor:
        """Of all positions of the rows once they are padded: (B, len(prefix) + padded ones)."""
        shared = padded.mask.new_ones(len(padded.mask), len(self.prefix))
        return torch.cat([shared, padded.mask], dim=1)


class Prefixes:
    """The keys and values of one model's chat prefixes."""

    def __init__(
        self, model: PreTrainedModel, forward: ForwardPass, *, are_shared: bool = True
    ) -> None:
        """Compute nothing before it is asked for, and share nothing where `are_shared` is False."""
        self._model = model
        self._forward = forward
        self._computed: dict[Prefix, Layers | None] = {}
        self.are_shared = are_shared and not getattr(model, "_is_stateful", False)
        """Whether the model keeps keys and values at all, which rows can go on from."""

    @cached_property
    def _window(self) -> int | None:
        """The fewest positions that a layer attends to; None where each attends to all."""
        layers = DynamicCache(config=self._model.config).layers
        windows = [getattr(layer, "sliding_window", None) for layer in layers]
        return min((window for window in windows if isinstance(window, int)), default=None)

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
        cache = _whole_cache(self._model)
        row = torch.tensor([prefix], device=input_device(self._model))
        positions = torch.arange(len(prefix), device=row.device)[None]
        self._forward(row, torch.ones_like(row), positions, cache, 1)
        return keys_and_values(cache, len(prefix))

    def new_cache(self, shared: Layers | None, size: int) -> DynamicCache:
        """A cache of `size` rows that have read a prefix, or nothing."""
        cache = _whole_cache(self._model)
        for index, (keys, values) in enumerate(shared or []):
            cache.update(keys.expand(size, -1, -1, -1), values.expand(size, -1, -1, -1), index)
        return cache

    def pack_left(self, cache: DynamicCache, mask: Tensor) -> Tensor:
        """Move each row's padding before all else where a layer has a window; return the mask.

        What is decoded next moves the window on, and a gap in a row would let it see less of it.
        """
        if self._window is None or torch.equal(mask, mask.cummax(dim=1).values):
            return mask
        order = mask.argsort(dim=1, stable=True)
        layer: Any  # of many classes
        for layer in cache.layers:
            if getattr(layer, "keys", None) is None:  # a state that has no positions
                continue
            # Keys know their own place in the text: it is only what is forgotten that order tells.
            index = order[:, None, :, None].to(layer.keys.device)
            layer.keys = layer.keys.gather(2, index.expand_as(layer.keys))
            layer.values = layer.values.gather(2, index.expand_as(layer.values))
        return mask.gather(1, order)


@dataclass(frozen=True)
class ReadBatch:
    """Prompts that were read in one pass, padded on the left; what they share is left out."""

    layers: Layers
    logits: Tensor
    """What follows each prompt: (B, V)."""

    @classmethod
    def of(cls, layers: Layers, logits: Tensor, *, longest: int) -> ReadBatch:
        """Of a pass over rows of at most `longest` tokens: its cache, and logits (B, N, V).

        Copies, so that neither the prefix of each row nor the other logits stay in memory.
        """
        kept = [
            (keys[:, :, -longest:].clone(), values[:, :, -longest:].clone())
            for keys, values in layers
        ]
        return cls(kept, logits[:, -1].clone())

    @cached_property
    def num_bytes(self) -> int:
        """Memory that its tensors take."""
        tensors = [self.logits, *(one for both in self.layers for one in both)]
        return sum(one.numel() * one.element_size() for one in tensors)


Place = tuple[ReadBatch, int]
"""Where a prompt was read: the batch, and which row of it."""


@dataclass
class PromptCache:
    """Prompts that one model has read, up to `KEPT_BYTES`.

    One prompt is scored, judged for its naturalness and answered in several ways, one after the
    other. What all of these begin with are its keys and values, and the logits that say where a
    model goes on from.
    """

    _places: dict[Row, Place] = field(default_factory=dict)
    _num_bytes: int = 0

    def get(self, row: Row) -> Place | None:
        """Where it was read; None where it was not, or was not kept."""
        return self._places.get(row)

    def keep(self, rows: Sequence[Row], batch: ReadBatch) -> None:
        """Remember the rows of a batch, unless they take too much memory, or are all known."""
        is_new = not self._places.keys() >= set(rows)
        if is_new and self._num_bytes + batch.num_bytes <= KEPT_BYTES:
            self._num_bytes += batch.num_bytes
            self._places.update((row, (batch, index)) for index, row in enumerate(rows))

    def forget(self) -> None:
        """Let all of them go."""
        self._places.clear()
        self._num_bytes = 0


def keys_and_values(cache: DynamicCache, num_positions: int) -> Layers | None:
    """Of all layers; None where these are not all that a layer knows of what was read.

    A layer that attends to a window forgets what lies before it; those of other kinds keep a
    recurrent state, or an index, besides.
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
    """The logits (B, V) after prompts of those lengths, and their keys and values in one cache.

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


def _whole_cache(model: PreTrainedModel) -> DynamicCache:
    """A cache of which no layer forgets: how far a layer looks back is for the model's mask to say.

    A config may name windows that its model does not know, and there a window changes nothing.
    """
    cache = DynamicCache(config=model.config)
    cache.layers = [
        DynamicLayer() if type(layer) is DynamicSlidingWindowLayer else layer  # type: ignore[no-untyped-call]
        for layer in cache.layers
    ]
    return cache


def _by_batch(places: Sequence[Place]) -> Iterator[tuple[ReadBatch, list[int], list[int]]]:
    """Each batch, the rows of it that are wanted, and the places that they go to."""
    found: dict[int, tuple[ReadBatch, list[int], list[int]]] = {}
    for place, (batch, row) in enumerate(places):
        _, rows, positions = found.setdefault(id(batch), (batch, [], []))
        rows.append(row)
        positions.append(place)
    return iter(found.values())


def _rows(batch: ReadBatch, layer: int, rows: list[int], longest: int) -> tuple[Tensor, Tensor]:
    """Keys and values of some rows at their last `longest` positions.

    No wanted prompt is longer, so what else comes along is masked as padding, of whatever it is.
    """
    keys, values = (
        pad(_selected(one[:, :, -longest:], rows), (0, 0, max(0, longest - one.shape[-2]), 0))
        for one in batch.layers[layer]
    )
    return keys, values


def _selected(tensor: Tensor, rows: list[int]) -> Tensor:
    return tensor.index_select(0, torch.tensor(rows, device=tensor.device))
