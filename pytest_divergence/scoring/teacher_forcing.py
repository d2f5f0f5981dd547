"""Scores of both models at each position of a continuation, one piece of positions at a time.

A piece's logits are made, measured and freed, so that peak memory does not grow with
vocabulary times positions. Where a gradient is wanted they are made a second time in the backward
pass (Chen et al. 2016, arXiv:1604.06174; for the output head, Hsu et al. 2024, arXiv:2410.10989):
with z the logits, h the hidden states, W the head and D the sum of what is measured at positions t,

    dD/dh_t = W^T dD/dz_t,   and of KL(p || q):   dD/dz_q = q - p,   dD/dz_p = p (ln p - ln q - D_t)

so a position's gradient needs no other position's logits. Does not know where a continuation comes
from, nor how a prompt's number is made of its positions (`pytest_divergence.scoring.scorer`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pytest_divergence.core.errors import NonFiniteLogitsError
from pytest_divergence.core.setting_names import setting
from pytest_divergence.models.batching import map_batches
from pytest_divergence.models.endpoints.served_side import ServedRows
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Decoding, LazyLogits, Side
from pytest_divergence.scoring.divergences import js_of_log_probs, kl_of_log_probs, log_probs
from pytest_divergence.scoring.metrics import AddedMetric, added_metric

SCORING_BATCH = 16
"""Rows that a model reads together."""
PIECE_BYTES = 32 * 2**20
"""Logits of one model in a piece, in float32; measuring them takes about ten times that."""
Value = TypeVar("Value")
Measure = Callable[..., Tensor]
"""Function from a slice of positions and each model's logits there (n, V) to values (..., n)."""


@dataclass(frozen=True)
class ScoringRow:
    """A prompt's ids, cut after the shared prefix, and the continuation to score."""

    prefix: tuple[int, ...]
    body: Tensor
    continuation: tuple[int, ...]

    @property
    def ids(self) -> Tensor:
        """Ids that are fed after the prefix; the last token predicts nothing that is scored."""
        fed = torch.tensor(self.continuation[:-1], dtype=torch.long)
        return torch.cat([self.body, fed])


@dataclass(frozen=True)
class TokenScores:
    """Scores per token of one continuation of T tokens: tensors (T,), on the CPU, in float32."""

    forward: Tensor
    reverse: Tensor
    js: Tensor
    same_top: Tensor
    """1 where both models would choose the same token."""
    reference_logprobs: Tensor
    candidate_logprobs: Tensor
    added: Tensor | None = None
    """Values of the asserted metric, if it is not a built-in one."""


def score_tokens(
    pair: ModelPair, rows: Sequence[ScoringRow], *, metric: str = "symmetric"
) -> list[TokenScores]:
    """Return divergences at each token of each row's continuation, in `metric` and built-in ones.

    Raises `NonFiniteLogitsError` naming the model where logits are NaN or infinite, `ValueError`
    for an empty continuation.
    """
    added = added_metric(pair, metric)
    return map_batches(
        rows,
        lambda batch: _score_batch(pair, batch, added),
        length=lambda row: len(row.body) + len(row.continuation),
        max_rows=SCORING_BATCH,
    )


def read_prompts(
    pair: ModelPair, bodies: Sequence[Tensor], *, prefix: tuple[int, ...]
) -> tuple[Decoding, Decoding]:
    """Return reference and candidate after each has read the same prompts once."""
    return (
        pair.reference.start(bodies, prefix=prefix),
        pair.candidate.start(bodies, prefix=prefix),
    )


@torch.no_grad()
def score_states(
    states: tuple[Decoding, Decoding],
    owners: Sequence[int],
    continuations: Sequence[Sequence[int]],
    added: AddedMetric | None = None,
) -> list[TokenScores]:
    """Score continuations of prompts that both models have read; `owners` names each one's row."""
    if not all(map(len, continuations)):
        raise ValueError("a continuation to score must have at least one token")

    def compute(batch: list[tuple[int, Sequence[int]]]) -> list[TokenScores]:
        rows, ids = [owner for owner, _ in batch], [given for _, given in batch]
        both = [state.fork(rows).positions_of(ids) for state in states]
        sides = (states[0].side, states[1].side)
        return [
            _row_scores(sides, positions, torch.tensor(given), added)
            for *positions, given in zip(*both, ids, strict=True)
        ]

    return map_batches(
        list(zip(owners, continuations, strict=True)),
        compute,
        length=lambda row: len(row[1]),
        max_rows=SCORING_BATCH,
    )


@torch.no_grad()
def at_first_tokens(
    pair: ModelPair,
    rows: Sequence[ScoringRow],
    measure: Callable[[Tensor, Tensor], Sequence[Value]],
) -> list[Value]:
    """Apply `measure` to both models' logits of each row's first token: (B, V) a batch of rows."""

    def compute(batch: list[ScoringRow]) -> Sequence[Value]:
        given = with_one_prefix(batch)
        states = read_prompts(pair, [row.body for row in given], prefix=given[0].prefix)
        for state in states:
            if isinstance(state, ServedRows):
                state.side.has_no_logits()
        reference, candidate = (state.logits for state in states)
        return measure(reference, candidate.to(reference.device))

    return map_batches(rows, compute, length=lambda row: len(row.body), max_rows=SCORING_BATCH)


def continuation_logits(side: Side, batch: Sequence[ScoringRow]) -> list[Tensor]:
    """Return the logits of each row's continuation tokens: (T, V) a row, checked to be numbers.

    One plain forward pass, without a cache after the prefix: scoring is compared with it.
    """
    longest = max(len(row.continuation) for row in batch)
    batch = with_one_prefix(batch)
    logits = side.logits([row.ids for row in batch], prefix=batch[0].prefix, num_logits=longest)
    check_finite(logits, side)
    return [
        row_logits[-len(row.continuation) :] for row, row_logits in zip(batch, logits, strict=True)
    ]


def token_log_probs(side: Side, positions: LazyLogits, token_ids: Tensor) -> Tensor:
    """Return one model's ln p of one token at each position, in nats: (N,) ids -> (N,).

    Raises `NonFiniteLogitsError` as `score_tokens` does.
    """

    def measure(piece: slice, logits: Tensor) -> Tensor:
        check_finite(logits, side)
        index = token_ids[piece, None].to(logits.device)
        return logits.log_softmax(-1).gather(-1, index)[:, 0]

    return measured(measure, positions)


def continuation_log_probs(side: Side, rows: Sequence[ScoringRow]) -> list[Tensor]:
    """Return one model's ln p of each row's tokens, in nats: (T,) a row, on the CPU.

    Raises `NonFiniteLogitsError` as `score_tokens` does.
    """
    return map_batches(
        rows,
        lambda batch: _log_probs(side, batch),
        length=lambda row: len(row.body) + len(row.continuation),
        max_rows=SCORING_BATCH,
    )


@torch.no_grad()
def _log_probs(side: Side, batch: list[ScoringRow]) -> list[Tensor]:
    rows = with_one_prefix(batch)
    state = side.start([row.body for row in rows], prefix=rows[0].prefix)
    if isinstance(state, ServedRows):
        return [told.chosen for told in state.told([row.continuation for row in rows])]
    found = state.positions_of([row.continuation for row in rows])
    return [
        token_log_probs(side, positions, torch.tensor(row.continuation)).cpu()
        for positions, row in zip(found, rows, strict=True)
    ]


def with_one_prefix(batch: Sequence[ScoringRow]) -> Sequence[ScoringRow]:
    """Return rows outside the shared format with their whole context, as all beside them."""
    return batch if len({row.prefix for row in batch}) == 1 else [whole(row) for row in batch]


def measured(measure: Measure, *models: LazyLogits) -> Tensor:
    """Apply `measure` to the logits of each model at all N positions: (..., N).

    Positions whose logits are in memory anyway are measured at once.
    """
    count = len(models[0])
    if all(lazy.is_whole for lazy in models):
        return _piece(measure, models, slice(0, count))
    length = max(1, PIECE_BYTES // (4 * models[0].vocab_size))
    pieces = [slice(start, min(start + length, count)) for start in range(0, count, length)]
    return torch.cat([_recomputed(measure, models, piece) for piece in pieces], dim=-1)


def check_finite(logits: Tensor, side: Side) -> None:
    """Raise `NonFiniteLogitsError` for NaN or +inf; -inf rules a token out and is allowed."""
    if torch.isnan(logits).any() or torch.isposinf(logits).any():
        raise NonFiniteLogitsError(
            f"the {side.role} returned logits that are not numbers (NaN or infinite); nothing was "
            f"measured. Check its weights, or try {setting('dtype')}=float32."
        )


def whole(row: ScoringRow) -> ScoringRow:
    """Return the row with its prefix as part of its body: nothing is shared."""
    start = torch.tensor(row.prefix, dtype=torch.long)
    return ScoringRow((), torch.cat([start, row.body]), row.continuation)


@torch.no_grad()
def _score_batch(
    pair: ModelPair, batch: list[ScoringRow], added: AddedMetric | None
) -> list[TokenScores]:
    rows = with_one_prefix(batch)
    states = read_prompts(pair, [row.body for row in rows], prefix=rows[0].prefix)
    return score_states(states, range(len(rows)), [row.continuation for row in rows], added)


def _row_scores(
    sides: tuple[Side, Side],
    positions: Sequence[LazyLogits],
    token_ids: Tensor,
    added: AddedMetric | None,
) -> TokenScores:
    def measure(piece: slice, reference: Tensor, candidate: Tensor) -> Tensor:
        check_finite(reference, sides[0])
        check_finite(candidate, sides[1])
        return _scores(reference, candidate.to(reference.device), token_ids[piece], added)

    return TokenScores(*measured(measure, *positions))


def _scores(
    reference: Tensor, candidate: Tensor, token_ids: Tensor, added: AddedMetric | None
) -> Tensor:
    """Return the fields of `TokenScores` at T positions: (fields, T), on the CPU."""
    index = token_ids[:, None].to(reference.device)
    log_p, log_q = log_probs(reference), log_probs(candidate)
    fields = [
        kl_of_log_probs(log_p, log_q),
        kl_of_log_probs(log_q, log_p),
        js_of_log_probs(log_p, log_q),
        (reference.argmax(-1) == candidate.argmax(-1)).float(),
        log_p.gather(-1, index)[:, 0],
        log_q.gather(-1, index)[:, 0],
    ]
    if added is not None:
        fields.append(added(reference, candidate))
    return torch.stack([field.cpu() for field in fields])


def _recomputed(measure: Measure, models: tuple[LazyLogits, ...], piece: slice) -> Tensor:
    if not torch.is_grad_enabled():
        return _piece(measure, models, piece)
    values: Tensor = checkpoint(
        _piece, measure, models, piece, use_reentrant=False, preserve_rng_state=False
    )
    return values


def _piece(measure: Measure, models: tuple[LazyLogits, ...], piece: slice) -> Tensor:
    return measure(piece, *(lazy.logits(piece.start, piece.stop) for lazy in models))
