"""Rows in flight: order kept, fewer at a time when memory ends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_divergence.models.batching import is_out_of_memory, map_batches


class Machine:
    """Has memory for `limit` rows at once."""

    def __init__(self, limit: int, error: type[BaseException] = torch.OutOfMemoryError) -> None:
        self.limit = limit
        self.error = error
        self.batches: list[list[int]] = []

    def double(self, rows: list[int]) -> list[int]:
        if len(rows) > self.limit:
            raise self.error("no memory left")
        self.batches.append(rows)
        return [2 * row for row in rows]


@given(
    rows=st.lists(st.integers(0, 99), max_size=20),
    max_rows=st.integers(1, 9),
    limit=st.integers(1, 9),
)
@settings(max_examples=20, deadline=None)  # each halving collects garbage, which takes a while
def test_results_come_in_the_order_of_the_rows(rows: list[int], max_rows: int, limit: int) -> None:
    machine = Machine(limit)

    results = map_batches(rows, machine.double, length=int, max_rows=max_rows)

    assert results == [2 * row for row in rows]
    assert all(len(batch) <= min(max_rows, limit) for batch in machine.batches)


def test_rows_of_like_length_go_together() -> None:
    machine = Machine(limit=99)

    map_batches([9, 1, 8, 2], machine.double, length=int, max_rows=2)

    assert machine.batches == [[1, 2], [8, 9]]


def test_out_of_memory_halves_the_rows_in_flight() -> None:
    machine = Machine(3)

    results = map_batches(list(range(10)), machine.double, length=int, max_rows=8)

    assert results == [2 * row for row in range(10)]
    assert [len(batch) for batch in machine.batches] == [2, 2, 2, 2, 2]


@pytest.mark.parametrize(("limit", "error"), [(0, torch.OutOfMemoryError), (1, ValueError)])
def test_with_one_row_or_another_error_it_is_passed_on(
    limit: int, error: type[BaseException]
) -> None:
    machine = Machine(limit, error)

    with pytest.raises(error, match="no memory left"):
        map_batches([1, 2], machine.double, length=int, max_rows=2)
    assert machine.batches == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
