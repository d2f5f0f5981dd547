"""Divergences from parts of two distributions: heads of likeliest tokens, and the tokens written.

With r = q(y) / p(y) and a token y sampled from p, f(r) is an unbiased estimate of the f-divergence
sum p f(q / p), and never negative if f is not. KL(p || q) has f(r) = r - 1 - ln r (Schulman 2020,
"Approximating KL divergence", k3), KL(q || p) has r ln r - r + 1, and the Jensen-Shannon divergence
has (ln(2 / (1 + r)) + r ln(2 r / (1 + r))) / 2; all vanish at 1, with their derivative. The tokens
S that both models tell of, chosen without looking at y, are summed exactly; so

    sum over S of p f(q / p)  +  f(q(y) / p(y)) if y is not in S

is unbiased whatever S is, exact if S is the vocabulary, and from the chosen token alone if S is
empty. A head with one bucket for the rest is not: it is too small by what the rest holds.

A suite's tokens y were sampled from the candidate of then, q', and not from q, the one of now. Then
the mean of f(p / q) is no divergence, and explodes where q no longer writes what q' wrote: r is
p(y) / q(y). With w = q(y) / q'(y), importance sampling, the mean of w f(p / q) is sum q f(p / q)
again, and such a token adds p(y) / q'(y) at most. One that q' hardly ever writes, and q does, would
count for many, so w stops at `MOST_WEIGHT` (truncated importance sampling, Ionides 2008). Then the
mean is

    sum of min(q, MOST_WEIGHT q') f(p / q)  <=  sum of q f(p / q):

unbiased if q is nowhere above `MOST_WEIGHT` q', as a build of the same weights is at all tokens
that matter, and else a lower bound: what the new candidate alone writes is for a new search to
find. If q is q', w is 1. A suite's reference stays the same, so its tokens need no weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pytest_divergence.core.cases import FULL
from pytest_divergence.core.provenance import NoiseFloor
from pytest_divergence.core.verdicts import ARITHMETIC_FLOOR
from pytest_divergence.models.batching import map_batches
from pytest_divergence.models.endpoints.served_side import ServedRows
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Decoding, LazyLogits, Role, Side, Told
from pytest_divergence.scoring.divergences import js_of_log_probs, log_probs
from pytest_divergence.scoring.teacher_forcing import (
    SCORING_BATCH,
    ScoringRow,
    TokenScores,
    check_finite,
    measured,
    read_prompts,
    with_one_prefix,
)

States = tuple[Decoding, Decoding]


NUM_LIKELIEST = 5
"""Most likely tokens of a model whose whole distributions are here, besides those asked for."""
MOST_WEIGHT = 4.0
"""Largest q / q' that a stored token counts with.

Smaller ones see less of what is new; larger ones are noisier. By simulation on tiny models 4 is
about where the mean square error is least.
"""
NO_TOKEN = -1
"""Id of no token, where another one stands twice."""


class Source(NamedTuple):
    """Origin of a continuation's tokens."""

    writer: Role | None
    """The model that has sampled them; None: no model, or one of which nothing is known."""
    log_p: Sequence[float] | None = None
    """ln p of each of them by that model as it was then; None: as it is now."""


def evidence_of(states: States) -> str:
    """Return what is known at each position: `full`, or `head:K` where a server tells it."""
    told = [state.num_told for state in states if isinstance(state, ServedRows)]
    return f"head:{min(told)}" if told else FULL


def k3(log_ratio: Tensor) -> Tensor:
    """Return r - 1 - ln r from ln r, where r is q / p of a token sampled from p."""
    return torch.expm1(log_ratio) - log_ratio


def backward(log_ratio: Tensor) -> Tensor:
    """Return r ln r - r + 1 from ln r: the other direction of KL, from the same token."""
    return log_ratio.exp() * log_ratio - torch.expm1(log_ratio)


def jensen_shannon(log_ratio: Tensor) -> Tensor:
    """Return (ln(2 / (1 + r)) + r ln(2 r / (1 + r))) / 2 from ln r."""
    log_half = torch.nn.functional.softplus(log_ratio) - math.log(2)  # ln((1 + r) / 2)
    return (log_ratio.exp() * (log_ratio - log_half) - log_half) / 2


def importance_weights(log_q: Tensor, written_log_p: Sequence[float] | None) -> Tensor:
    """Return min(q / q', `MOST_WEIGHT`) of tokens from their ln q now and ln q' then: (T,)."""
    if written_log_p is None:
        return torch.ones_like(log_q, dtype=torch.float64)
    log_weight = log_q.double() - torch.tensor(written_log_p, dtype=torch.float64)
    return log_weight.exp().clamp(max=MOST_WEIGHT)


def estimated(
    states: States,
    owners: Sequence[int],
    sources: Sequence[Source],
    continuations: Sequence[Sequence[int]],
) -> list[TokenScores]:
    """Score continuations of prompts, at least one of whose models is served.

    `owners` names each one's row. Raises `MeasurementError` for what a server cannot have meant.
    """
    both = told_by_both(states, owners, continuations)
    return [token_scores(*told, *source) for told, source in zip(both, sources, strict=True)]


def scores_of_the_likeliest(pair: ModelPair, rows: Sequence[ScoringRow]) -> list[TokenScores]:
    """Score tokens that no model has sampled, one of whose models is served; see `token_scores`."""

    def compute(batch: list[ScoringRow]) -> list[TokenScores]:
        given = with_one_prefix(batch)
        states = read_prompts(pair, [row.body for row in given], prefix=given[0].prefix)
        both = told_by_both(states, range(len(given)), [row.continuation for row in given])
        return [token_scores(*told, None) for told in both]

    return map_batches(rows, compute, length=lambda row: len(row.body), max_rows=SCORING_BATCH)


@torch.no_grad()
def told_by_both(
    states: States, owners: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[tuple[Told, Told]]:
    """Return what both models tell of each continuation.

    A model whose whole distributions are here tells of its likeliest tokens, and of those that the
    server names.
    """
    if not all(map(len, continuations)):
        raise ValueError("a continuation to score must have at least one token")
    first, second = (
        state.fork(owners).told(continuations) if isinstance(state, ServedRows) else None
        for state in states
    )
    if first is None:
        assert second is not None  # else nothing is served
        first = _told_here(states[0], owners, continuations, second)
    if second is None:
        second = _told_here(states[1], owners, continuations, first)
    return list(zip(first, second, strict=True))


def token_scores(
    reference: Told,
    candidate: Told,
    writer: Role | None,
    written_log_p: Sequence[float] | None = None,
) -> TokenScores:
    """Return the divergences of a continuation that `writer` has sampled, each position unbiased.

    Each direction of KL is estimated on the tokens of either model. Of tokens that no model has
    sampled (None) the divergences are what the likeliest tokens hold, which is never too much.
    `written_log_p` is ln p of the tokens by the writer that has sampled them, where that was an
    earlier one: (T,).
    """
    log_p, log_q = reference.chosen.double(), candidate.chosen.double()
    sorted_ids, order = candidate.head_ids.sort(dim=-1)
    places = torch.searchsorted(sorted_ids, reference.head_ids.contiguous())
    places = places.clamp(max=sorted_ids.shape[-1] - 1)
    is_shared = (sorted_ids.gather(-1, places) == reference.head_ids) & (
        reference.head_ids != NO_TOKEN
    )
    head_q = candidate.head.gather(-1, order.gather(-1, places))
    heads = [
        values.double().masked_fill(~is_shared, -torch.inf) for values in (reference.head, head_q)
    ]
    is_tail = (writer is not None) & ~(
        is_shared & (reference.head_ids == reference.ids[:, None])
    ).any(-1)
    log_ratio = log_q - log_p if writer == "reference" else log_p - log_q
    drawn = importance_weights(log_p if writer == "reference" else log_q, written_log_p)
    own, other = drawn * k3(log_ratio), drawn * backward(log_ratio)
    forward, reverse = (own, other) if writer == "reference" else (other, own)

    def whole(exact: Tensor, tail: Tensor) -> Tensor:
        return (exact + torch.where(is_tail, tail, 0.0)).float()

    return TokenScores(
        forward=whole(_exact_kl(heads[0], heads[1]), forward),
        reverse=whole(_exact_kl(heads[1], heads[0]), reverse),
        js=whole(js_of_log_probs(heads[0], heads[1]), drawn * jensen_shannon(log_ratio)),
        same_top=(reference.head_ids[:, 0] == candidate.head_ids[:, 0]).float(),
        reference_logprobs=log_p.float(),
        candidate_logprobs=log_q.float(),
    )


def served_floor(readings: Iterable[tuple[Told, Told]]) -> NoiseFloor:
    """Return the largest divergence of a server from itself, read in two ways; nats per token.

    Never below the floor of float32 arithmetic.
    """
    values = [divergence_of_readings(*both) for both in readings]
    return NoiseFloor(value=max([ARITHMETIC_FLOOR, *values]), num_measurements=len(values))


def divergence_of_readings(first: Told, second: Told) -> float:
    """Return the symmetric divergence of two readings of the same tokens; nats per token."""
    scores = token_scores(first, second, "reference")
    return float((scores.forward + scores.reverse).mean() / 2)


def _exact_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the part of KL(p || q) that some tokens hold, p f(q / p): (T, K) -> (T,)."""
    ratio = (log_p - log_q).masked_fill(torch.isneginf(log_p), 0.0)
    p, q = log_p.exp(), log_q.exp()
    return (p * ratio - p + q).sum(-1)


def _told_here(
    state: Decoding,
    owners: Sequence[int],
    continuations: Sequence[Sequence[int]],
    others: Sequence[Told],
) -> list[Told]:
    """Return what a model that is here tells of continuations, and of tokens that `others` name."""

    def compute(batch: list[tuple[int, Sequence[int], Tensor]]) -> list[Told]:
        rows, ids = [owner for owner, _, _ in batch], [given for _, given, _ in batch]
        found = state.fork(rows).positions_of(ids)
        return [
            _gathered(state.side, positions, torch.tensor(given), asked)
            for positions, (_, given, asked) in zip(found, batch, strict=True)
        ]

    asked = [told.head_ids for told in others]
    return map_batches(
        list(zip(owners, continuations, asked, strict=True)),
        compute,
        length=lambda row: len(row[1]),
        max_rows=SCORING_BATCH,
    )


@torch.no_grad()
def told_alone(side: Side, rows: Sequence[ScoringRow], num_likeliest: int) -> list[Told]:
    """Return what a model that is here tells of each row's continuation, by itself."""

    def compute(batch: list[ScoringRow]) -> list[Told]:
        given = with_one_prefix(batch)
        state = side.start([row.body for row in given], prefix=given[0].prefix)
        found = state.positions_of([row.continuation for row in given])
        return [
            _gathered(
                side,
                positions,
                torch.tensor(row.continuation),
                torch.empty(len(row.continuation), 0, dtype=torch.long),
                num_likeliest,
            )
            for positions, row in zip(found, given, strict=True)
        ]

    return map_batches(
        rows,
        compute,
        length=lambda row: len(row.body) + len(row.continuation),
        max_rows=SCORING_BATCH,
    )


def _gathered(
    side: Side,
    positions: LazyLogits,
    ids: Tensor,
    asked: Tensor,
    num_likeliest: int = NUM_LIKELIEST,
) -> Told:
    """Return ln p of T ids, of the likeliest tokens there, and of `asked` tokens: (T, K)."""
    ids, asked = ids.to(positions.states.device), asked.to(positions.states.device)

    def measure(piece: slice, logits: Tensor) -> Tensor:
        check_finite(logits, side)
        log_p = log_probs(logits)
        top = log_p.topk(min(num_likeliest, log_p.shape[-1])).indices
        # A token that the other model has a row for, and this one not, is none that both know.
        others = asked[piece].masked_fill(asked[piece] >= log_p.shape[-1], NO_TOKEN)
        others = others.masked_fill((others[:, :, None] == top[:, None, :]).any(-1), NO_TOKEN)
        head_ids = torch.cat([top, others], dim=-1)
        head = log_p.gather(-1, head_ids.clamp(min=0))
        chosen = log_p.gather(-1, ids[piece, None])
        # One table of floats, which hold ids up to 2^24 exactly.
        return torch.cat([chosen, head_ids.to(head.dtype), head], dim=-1).T

    table = measured(measure, positions).T.cpu()
    width = (table.shape[-1] - 1) // 2
    return Told(ids.cpu(), table[:, 0], table[:, 1 : 1 + width].long(), table[:, 1 + width :])
