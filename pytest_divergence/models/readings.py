"""What a model has read of a prompt, kept for the next that asks for it.

One prompt is scored, judged for its naturalness and answered in several ways, one after the other.
What all of these begin with are its keys and values, which say where a model goes on from. Does not
know models; they are kept only as long as a side is told to (`ModelSide.reading_once`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from pytest_divergence.models.prefixes import Layers, Row

KEPT_BYTES = 256 * 2**20
"""Of keys and values that one model keeps: what is read beyond them is read again."""


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
class Readings:
    """Prompts that one model has read, up to `KEPT_BYTES`."""

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


def joined(
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
    cache.batch_select_indices(back)
    return _selected(logits, back.tolist()), cache


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
