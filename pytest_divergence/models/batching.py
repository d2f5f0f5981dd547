"""Rows in flight: sorted by length, run in micro-batches, fewer at a time when memory ends.

A row's result does not depend on its batch, so neither sorting nor halving changes a number.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Row = TypeVar("Row")
Result = TypeVar("Result")


def map_batches(
    rows: Sequence[Row],
    compute: Callable[[list[Row]], Sequence[Result]],
    *,
    length: Callable[[Row], int],
    max_rows: int,
) -> list[Result]:
    """`compute` over micro-batches of similar length; results in the order of `rows`.

    Where memory ends the batch is halved and tried again, down to one row.
    """
    order = sorted(range(len(rows)), key=lambda index: length(rows[index]))
    results: dict[int, Result] = {}
    start = 0
    while start < len(order):
        chosen = order[start : start + max_rows]
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, on the host or a device, ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "CUBLAS_STATUS_ALLOC_FAILED" in text
    )
