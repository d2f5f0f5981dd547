"""Continuations of prompts that both models write, sampled or most likely.

Each model reads a prompt once, and a limited number of prompts is in flight at a time. Does not
know how continuations are scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from pytest_divergence.models.batching import by_prefix, map_batches
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.decoding import (
    DECODING_FREE_PADDING,
    greedy_from,
    row_seed,
    samples_from,
)
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Decoding
from pytest_divergence.scoring.teacher_forcing import read_prompts

Result = TypeVar("Result")
Ids = tuple[int, ...]
Row = tuple[Ids, Tensor]
"""A prompt's ids: the shared prefix, and the rest."""
PROMPTS_IN_FLIGHT = 32
"""Prompts that both models have read and not yet finished."""


@dataclass(frozen=True)
class Continuations:
    """Token ids after one prompt, several from each model, end of turn included."""

    reference: tuple[Ids, ...]
    candidate: tuple[Ids, ...]


Write = Callable[[Decoding, Sequence[Tensor]], list[tuple[Ids, ...]]]
"""Function from a model that has read prompts, and their ids, to its continuations of each."""


def greedy_continuations(
    pair: ModelPair, prompts: Sequence[Prompt], *, max_new_tokens: int
) -> list[Continuations]:
    """Return one continuation of most likely tokens from each model, not scored."""
    rows, write = pair.prompt_rows(prompts), most_likely(pair, max_new_tokens)

    def compute(batch: list[int]) -> list[Continuations]:
        return written(*read(pair, [rows[index] for index in batch]), write)

    return in_flight(rows, compute)


def sampler(
    pair: ModelPair,
    num_continuations: int,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
) -> Write:
    """Return a writer of samples, from a random stream named by the seed and a prompt's ids.

    Raises `ValueError` for counts below 1 and a temperature that is not positive.
    """
    if num_continuations < 1 or max_new_tokens < 1:
        raise ValueError(
            f"num_continuations={num_continuations} and max_new_tokens={max_new_tokens} must be "
            "at least 1"
        )
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be positive and finite")

    def write(state: Decoding, rows: Sequence[Tensor]) -> list[tuple[Ids, ...]]:
        repeats = range(num_continuations)
        seeds = [
            row_seed(seed, state.side.role, number, *row.tolist())
            for row in rows
            for number in repeats
        ]
        forked = state.fork([index for index in range(len(rows)) for _ in repeats])
        sampled = samples_from(
            forked, max_new_tokens, pair.chat.stop_ids, seeds, temperature=temperature
        )
        flat = [tuple(ids) for ids in sampled]
        starts = range(0, len(flat), num_continuations)
        return [tuple(flat[start : start + num_continuations]) for start in starts]

    return write


def most_likely(pair: ModelPair, max_new_tokens: int) -> Write:
    """Return a writer of each model's most likely tokens."""

    def write(state: Decoding, rows: Sequence[Tensor]) -> list[tuple[Ids, ...]]:
        forked = state.fork(range(len(rows)))
        return [(tuple(ids),) for ids in greedy_from(forked, max_new_tokens, pair.chat.stop_ids)]

    return write


def read(pair: ModelPair, rows: Sequence[Row]) -> tuple[tuple[Decoding, Decoding], list[Tensor]]:
    """Let both models read prompts that share one prefix; return them and the prompts' ids."""
    bodies = [body for _, body in rows]
    return read_prompts(pair, bodies, prefix=rows[0][0]), bodies


def written(
    states: tuple[Decoding, Decoding], bodies: Sequence[Tensor], write: Write
) -> list[Continuations]:
    """Return the continuations that both models write after the prompts that they have read."""
    both = (write(state, bodies) for state in states)
    return [Continuations(*by_both) for by_both in zip(*both, strict=True)]


def in_flight(
    rows: Sequence[Row], compute: Callable[[list[int]], Sequence[Result]]
) -> list[Result]:
    """Apply `compute` to indices of rows that share a prefix, a limited number at a time."""
    return by_prefix(
        rows,
        lambda _, chosen: map_batches(
            chosen,
            compute,
            length=lambda index: len(rows[index][1]),
            max_rows=PROMPTS_IN_FLIGHT,
            free_padding=DECODING_FREE_PADDING,
        ),
    )
