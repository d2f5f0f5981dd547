"""Continuations of prompts that both models write, sampled or most likely.

Each model reads a prompt once, and a limited number of prompts is in flight at a time. Does not
know how continuations are scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
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
from pytest_divergence.models.side import Decoding, Side
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
    candidate_log_p: tuple[tuple[float, ...], ...] | None = field(default=None, compare=False)
    """ln p of each of the candidate's tokens, by the candidate that wrote them, in nats; None where
    that is not known."""


Write = Callable[[Decoding, Ids, Sequence[Tensor]], list[tuple[Ids, ...]]]
"""Function from a model that has read prompts, and their ids, to its continuations of each.

The ids are the prefix that the prompts share, and the rest of each."""
Decode = Callable[[Decoding, Sequence[tuple[int, str]], int, frozenset[int]], list[list[int]]]
"""Function from a model that has read rows, the number and part of each, and a limit with its stop
ids. The part, empty for a reply's first, has random draws of its own."""


def greedy_continuations(
    pair: ModelPair, prompts: Sequence[Prompt], *, max_new_tokens: int
) -> list[Continuations]:
    """Return one continuation of most likely tokens from each model, not scored."""
    return _unscored(pair, prompts, most_likely(pair, max_new_tokens))


def greedy_answer(pair: ModelPair, side: Side, prompt: Prompt, *, max_new_tokens: int) -> Ids:
    """Return one model's most likely tokens after a prompt."""
    ((prefix, body),) = pair.prompt_rows([prompt])
    state = side.start([body], prefix=prefix)
    ((ids,),) = most_likely(pair, max_new_tokens)(state, prefix, [body])
    return ids


def sampled_continuations(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    *,
    num_continuations: int,
    max_new_tokens: int,
    seed: int,
) -> list[Continuations]:
    """Return samples at T = 1 from each model, not scored. Raises what `sampler` raises."""
    return _unscored(pair, prompts, sampler(pair, num_continuations, max_new_tokens, seed))


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

    def write(state: Decoding, prefix: Ids, bodies: Sequence[Tensor]) -> list[tuple[Ids, ...]]:
        repeats = range(num_continuations)
        owners = [index for index in range(len(bodies)) for _ in repeats]
        seeds = [
            row_seed(seed, state.side.role, number, *body.tolist())
            for body in bodies
            for number in repeats
        ]

        def decode(
            state: Decoding, parts: Sequence[tuple[int, str]], limit: int, stop_ids: frozenset[int]
        ) -> list[list[int]]:
            chosen = [
                row_seed(seeds[number], part) if part else seeds[number] for number, part in parts
            ]
            return samples_from(state, limit, stop_ids, chosen, temperature=temperature)

        rows = [bodies[owner] for owner in owners]
        flat = _replies(pair, state.fork(owners), prefix, rows, max_new_tokens, decode)
        starts = range(0, len(flat), num_continuations)
        return [tuple(flat[start : start + num_continuations]) for start in starts]

    return write


def most_likely(pair: ModelPair, max_new_tokens: int) -> Write:
    """Return a writer of each model's most likely tokens."""

    def decode(
        state: Decoding, parts: Sequence[tuple[int, str]], limit: int, stop_ids: frozenset[int]
    ) -> list[list[int]]:
        return greedy_from(state, limit, stop_ids)

    def write(state: Decoding, prefix: Ids, bodies: Sequence[Tensor]) -> list[tuple[Ids, ...]]:
        forked = state.fork(range(len(bodies)))
        return [(ids,) for ids in _replies(pair, forked, prefix, bodies, max_new_tokens, decode)]

    return write


def read(pair: ModelPair, rows: Sequence[Row]) -> tuple[Decoding, Decoding]:
    """Let both models read prompts that share one prefix; return them."""
    return read_prompts(pair, [body for _, body in rows], prefix=rows[0][0])


def written(
    states: tuple[Decoding, Decoding], rows: Sequence[Row], write: Write
) -> list[Continuations]:
    """Return the continuations that both models write after the prompts that they have read."""
    both = (write(state, rows[0][0], [body for _, body in rows]) for state in states)
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


def _unscored(pair: ModelPair, prompts: Sequence[Prompt], write: Write) -> list[Continuations]:
    rows = pair.prompt_rows(prompts)

    def compute(batch: list[int]) -> list[Continuations]:
        chosen = [rows[index] for index in batch]
        return written(read(pair, chosen), chosen, write)

    return in_flight(rows, compute)


def _replies(
    pair: ModelPair,
    state: Decoding,
    prefix: Ids,
    bodies: Sequence[Tensor],
    max_new_tokens: int,
    decode: Decode,
) -> list[Ids]:
    """Return one reply a row: an answer, and its thoughts first where the pair's are open.

    A model that has closed its thoughts, or has reached their limit, reads them again with the
    closing mark of the template, and answers.
    """
    chat, replies = pair.chat, pair.chat.open_replies
    first = [(number, "") for number in range(len(bodies))]
    if replies is None:
        return [tuple(ids) for ids in decode(state, first, max_new_tokens, chat.stop_ids)]
    limit = max(chat.thought_length, max_new_tokens)
    stop_ids = chat.stop_ids if replies.stop_id is None else chat.stop_ids | {replies.stop_id}
    begun = decode(state, first, limit, stop_ids)
    found = [tuple(ids[:max_new_tokens]) for ids in begun]
    closed: dict[int, Ids] = {}
    for number, ids in enumerate(begun):
        if (thoughts := replies.closed(ids[: chat.thought_length])) is None:
            continue
        if ids[-1] in chat.stop_ids:
            found[number] = tuple(ids)
        else:
            closed[number] = thoughts
    if not closed:
        return found
    rows = [torch.cat([bodies[number], torch.tensor(ids)]) for number, ids in closed.items()]
    state = state.side.start(rows, prefix=prefix)
    rest = [(number, "answer") for number in closed]
    answers = decode(state, rest, max_new_tokens, chat.stop_ids)
    for (number, thoughts), answer in zip(closed.items(), answers, strict=True):
        found[number] = (*thoughts, *answer)
    return found
