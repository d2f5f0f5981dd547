"""Batches of rows: sorted by length, run in micro-batches, smaller ones if memory runs out.

A row's result does not depend on its batch, so neither sorting nor halving changes a number.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Row = TypeVar("Row")
Result = TypeVar("Result")
Prefix = tuple[int, ...]
"""Token ids that all rows of a batch begin with."""

FREE_PADDING = 64
"""Padded positions that are accepted in any batch."""
MAX_PADDING_SHARE = 0.25
"""Further padded positions that are accepted, as a share of the real ones."""


def map_batches(
    rows: Sequence[Row],
    compute: Callable[[list[Row]], Sequence[Result]],
    *,
    length: Callable[[Row], int],
    max_rows: int,
    free_padding: int = FREE_PADDING,
) -> list[Result]:
    """`compute` over micro-batches of similar length; results in the order of `rows`.

    No batch is split to save fewer than `free_padding` padded positions. If memory runs out, the
    batch is halved and tried again, down to one row.
    """
    order = sorted(range(len(rows)), key=lambda index: length(rows[index]))
    results: dict[int, Result] = {}
    start = 0
    while start < len(order):
        lengths = [length(rows[index]) for index in order[start : start + max_rows]]
        chosen = order[start : start + _num_alike(lengths, free_padding)]
        try:
            computed = compute([rows[index] for index in chosen])
        except Exception as error:
            if len(chosen) == 1 or not is_out_of_memory(error):
                raise
            computed = None  # leave the except block first: its traceback holds the tensors
        if computed is None:
            max_rows = len(chosen) // 2
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        results.update(zip(chosen, computed, strict=True))
        start += len(chosen)
    return [results[index] for index in range(len(rows))]


def by_prefix(
    rows: Sequence[tuple[Prefix, Tensor]],
    compute: Callable[[Prefix, list[int]], Sequence[Result]],
) -> list[Result]:
    """`compute` over the indices of rows that share a prefix; results in the order of `rows`."""
    groups: dict[Prefix, list[int]] = {}
    for index, (prefix, _) in enumerate(rows):
        groups.setdefault(prefix, []).append(index)
    results: dict[int, Result] = {}
    for prefix, chosen in groups.items():
        results.update(zip(chosen, compute(prefix, chosen), strict=True))
    return [results[index] for index in range(len(rows))]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, on the host or a device, ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "CUBLAS_STATUS_ALLOC_FAILED" in text
    )


def _num_alike(lengths: Sequence[int], free_padding: int) -> int:
    """Number of rows, shortest first, to batch before padding costs more than a batch saves."""
    total = 0
    for count, longest in enumerate(lengths):
        total += longest
        if longest * (count + 1) - total > free_padding + MAX_PADDING_SHARE * total:
            return count
    return len(lengths)
