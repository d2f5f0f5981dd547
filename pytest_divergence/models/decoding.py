"""Continuations: greedy, sampled at a temperature, or decoded from amplified logits.

Each sampled row draws from its own random stream, named by a seed, so a continuation does not
depend on the other rows. Nothing of a model's generation config is used.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from pytest_divergence.models.batching import Prefix, map_batches
from pytest_divergence.models.endpoints.served_side import ServedRows
from pytest_divergence.models.side import Decoding, Side

Row = TypeVar("Row")
Written = TypeVar("Written")
DECODING_BATCH = 64
"""Rows decoded together: each step reads all weights, however few rows there are."""
DECODING_FREE_PADDING = 512
"""Padded positions accepted in any decoding batch: more steps would cost more."""
Choose = Callable[[list[Tensor], int], Tensor]
"""Function from each side's logits (B, V) and the step to the next ids (B,)."""


class AmplifiedRow(NamedTuple):
    """A continuation from amplified logits."""

    ids: list[int]
    log_ratios: list[float]
    """ln p(candidate) - ln p(reference) of each id, in nats."""


def row_seed(*parts: object) -> int:
    """A 63-bit seed from the digest of its parts: the same on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def decode_greedily(
    side: Side,
    bodies: Sequence[Tensor],
    *,
    prefix: Prefix,
    max_new_tokens: int,
    stop_ids: frozenset[int],
) -> list[list[int]]:
    """The most likely next token, again and again, until a stop token (kept) or the limit."""

    def compute(rows: list[Tensor]) -> list[list[int]]:
        return greedy_from(side.start(rows, prefix=prefix), max_new_tokens, stop_ids)

    return _in_batches(bodies, compute, length=len)


def decode_sampled(
    side: Side,
    bodies: Sequence[Tensor],
    *,
    prefix: Prefix,
    max_new_tokens: int,
    stop_ids: frozenset[int],
    seeds: Sequence[int],
    temperature: float = 1.0,
) -> list[list[int]]:
    """Samples at a temperature from the whole vocabulary; row i draws from `seeds[i]`."""

    def compute(rows: list[tuple[Tensor, int]]) -> list[list[int]]:
        state = side.start([body for body, _ in rows], prefix=prefix)
        chosen = [seed for _, seed in rows]
        return samples_from(state, max_new_tokens, stop_ids, chosen, temperature=temperature)

    rows = list(zip(bodies, seeds, strict=True))
    return _in_batches(rows, compute, length=lambda row: len(row[0]))


def greedy_from(state: Decoding, max_new_tokens: int, stop_ids: frozenset[int]) -> list[list[int]]:
    """Greedy continuations of a batch that has read its prompts; the batch is spent."""
    if isinstance(state, ServedRows):
        return _up_to_a_stop(state.answers(max_new_tokens, None), stop_ids)
    return decode_together(
        [state], max_new_tokens, stop_ids, lambda logits, step: logits[0].argmax(-1)
    )


def samples_from(
    state: Decoding,
    max_new_tokens: int,
    stop_ids: frozenset[int],
    seeds: Sequence[int],
    *,
    temperature: float = 1.0,
) -> list[list[int]]:
    """Samples of a batch that has read its prompts; the batch is spent. A server samples itself."""
    if isinstance(state, ServedRows):
        return _up_to_a_stop(state.answers(max_new_tokens, seeds, temperature), stop_ids)
    draws = _draws(seeds, max_new_tokens, state.logits.device)

    def choose(logits: list[Tensor], step: int) -> Tensor:
        return _inverse_cdf(logits[0] / temperature, draws[:, step])

    return decode_together([state], max_new_tokens, stop_ids, choose)


def decode_amplified(
    reference: Side,
    candidate: Side,
    bodies: Sequence[Tensor],
    *,
    prefix: Prefix,
    max_new_tokens: int,
    stop_ids: frozenset[int],
    alpha: float,
    min_share: float = 0.02,
    seeds: Sequence[int] | None = None,
    temperature: float = 1.0,
    not_first: Sequence[int] = (),
) -> list[AmplifiedRow]:
    """Continuations of log p_c + alpha (log p_c - log p_r): greedy, or sampled with `seeds`.

    Only tokens with p_c of at least `min_share` of the candidate's largest compete, as in
    contrastive decoding (Li et al. 2023, arXiv:2210.15097), which keeps the text plausible. Row i
    draws from `seeds[i]`. None begins with a token of `not_first`, and these do not compete.
    """

    def compute(rows: list[tuple[Tensor, int | None]]) -> list[AmplifiedRow]:
        states = [side.start([body for body, _ in rows], prefix=prefix) for side in sides]
        drawn = [seed for _, seed in rows if seed is not None]
        draws = _draws(drawn, max_new_tokens, states[1].logits.device) if drawn else None
        ratios = list[Tensor]()

        def choose(logits: list[Tensor], step: int) -> Tensor:
            log_c = torch.log_softmax(logits[1], -1)
            log_r = torch.log_softmax(logits[0].to(log_c.device), -1)
            ratio = log_c - log_r
            if step == 0 and not_first:
                log_c[:, list(not_first)] = -torch.inf
            floor = log_c.max(-1, keepdim=True).values + math.log(min_share)
            scores = (log_c + alpha * ratio).masked_fill(log_c < floor, -torch.inf)
            if draws is None:
                chosen = scores.argmax(-1)
            else:
                chosen = _inverse_cdf(scores / temperature, draws[:, step])
            ratios.append(ratio.gather(-1, chosen[:, None])[:, 0])
            return chosen

        written = decode_together(states, max_new_tokens, stop_ids, choose)
        by_row = torch.stack(ratios, 1).tolist()
        return [
            AmplifiedRow(ids, found[: len(ids)]) for ids, found in zip(written, by_row, strict=True)
        ]

    sides = (reference, candidate)
    given = [None] * len(bodies) if seeds is None else seeds
    rows = list(zip(bodies, given, strict=True))
    return _in_batches(rows, compute, length=lambda row: len(row[0]))


@torch.no_grad()
def decode_together(
    states: Sequence[Decoding], max_new_tokens: int, stop_ids: frozenset[int], choose: Choose
) -> list[list[int]]:
    """Continuations of one batch that all models have read, of the ids that `choose` returns."""
    rows: list[list[int]] = [[] for _ in states[0].logits]
    is_open = [True] * len(rows)
    for step in range(max_new_tokens):
        chosen = choose([state.logits for state in states], step)
        for index, token_id in enumerate(chosen.tolist()):
            if is_open[index]:
                rows[index].append(token_id)
                is_open[index] = token_id not in stop_ids
        if not any(is_open) or step + 1 == max_new_tokens:
            break
        for state in states:
            state.step(chosen.to(state.side.device))
    return rows


def _in_batches(
    rows: Sequence[Row],
    compute: Callable[[list[Row]], list[Written]],
    *,
    length: Callable[[Row], int],
) -> list[Written]:
    return map_batches(
        rows,
        compute,
        length=length,
        max_rows=DECODING_BATCH,
        free_padding=DECODING_FREE_PADDING,
    )


def _up_to_a_stop(rows: Sequence[list[int]], stop_ids: frozenset[int]) -> list[list[int]]:
    """Rows up to the first stop token, which is kept."""
    ends = (next((at for at, id_ in enumerate(row, 1) if id_ in stop_ids), None) for row in rows)
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def _draws(seeds: Sequence[int], count: int, device: torch.device) -> Tensor:
    """Numbers from 0 to 1 by seed: (B, count); on the CPU for a GPU of Apple, without float64."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    drawn = [torch.rand(count, generator=each, dtype=torch.float64) for each in generators]
    return torch.stack(drawn).to("cpu" if device.type == "mps" else device)


def _inverse_cdf(logits: Tensor, draws: Tensor) -> Tensor:
    """The token where the cumulative probability passes each draw: (B, V), (B,) -> (B,).

    Computed where the draws are.
    """
    cumulative = torch.softmax(logits.to(draws.device).double(), -1).cumsum(-1)
    marks = (draws * cumulative[:, -1])[:, None]
    found = torch.searchsorted(cumulative, marks, right=True)[:, 0]
    return found.clamp(max=logits.shape[-1] - 1).to(logits.device)
