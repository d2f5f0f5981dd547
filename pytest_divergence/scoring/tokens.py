"""Teacher forcing: what both models say at each token of a given continuation.

Knows rows of ids; does not know where continuations come from or how they are summed up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_divergence.core.errors import NonFiniteLogitsError
from pytest_divergence.models.batching import map_batches
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import ModelSide
from pytest_divergence.scoring.divergences import js_of_log_probs, kl_of_log_probs, log_probs

SCORING_BATCH = 8


@dataclass(frozen=True)
class ScoringRow:
    """A prompt's ids, cut after the shared prefix, and the continuation to score."""

    prefix: tuple[int, ...]
    body: Tensor
    continuation: tuple[int, ...]

    @property
    def ids(self) -> Tensor:
        """What is fed after the prefix; the last token predicts nothing that is scored."""
        fed = torch.tensor(self.continuation[:-1], dtype=torch.long)
        return torch.cat([self.body, fed])


@dataclass(frozen=True)
class TokenScores:
    """Per token of one continuation of T tokens; every tensor is (T,), on the CPU, in float32."""

    forward: Tensor
    reverse: Tensor
    js: Tensor
    same_top: Tensor
    """1 where both models would choose the same token."""
    reference_logprobs: Tensor
    candidate_logprobs: Tensor


def score_tokens(pair: ModelPair, rows: Sequence[ScoringRow]) -> list[TokenScores]:
    """Divergences at every token of each row's continuation.

    Raises `NonFiniteLogitsError` naming the model where logits are NaN or infinite, `ValueError`
    for an empty continuation.
    """
    if any(not row.continuation for row in rows):
        raise ValueError("a continuation to score must have at least one token")
    return map_batches(
        rows,
        lambda batch: _score_batch(pair, batch),
        length=lambda row: len(row.body) + len(row.continuation),
        max_rows=SCORING_BATCH,
    )


@torch.no_grad()
def _score_batch(pair: ModelPair, batch: list[ScoringRow]) -> list[TokenScores]:
    reference = continuation_logits(pair.reference, batch)
    candidate = [logits.to(pair.device) for logits in continuation_logits(pair.candidate, batch)]
    return [
        _row_scores(ours, theirs, torch.tensor(row.continuation, device=pair.device))
        for row, ours, theirs in zip(batch, reference, candidate, strict=True)
    ]


def continuation_logits(side: ModelSide, batch: Sequence[ScoringRow]) -> list[Tensor]:
    """Logits that predict each row's continuation tokens: (T, V) a row, checked to be numbers."""
    longest = max(len(row.continuation) for row in batch)
    prefixes = {row.prefix for row in batch}
    if len(prefixes) > 1:  # rows outside the shared format carry their whole context themselves
        batch = [whole(row) for row in batch]
    logits = side.logits([row.ids for row in batch], prefix=batch[0].prefix, num_logits=longest)
    check_finite(logits, side)
    return [
        row_logits[-len(row.continuation) :] for row, row_logits in zip(batch, logits, strict=True)
    ]


def check_finite(logits: Tensor, side: ModelSide) -> None:
    """Raise `NonFiniteLogitsError` for NaN or +inf; -inf rules a token out and is allowed."""
    if torch.isnan(logits).any() or torch.isposinf(logits).any():
        raise NonFiniteLogitsError(
            f"the {side.role} returned logits that are not numbers (NaN or infinite); nothing was "
            "measured. Check its weights, or try --divergence-dtype=float32."
        )


def whole(row: ScoringRow) -> ScoringRow:
    """The same row with its prefix as part of its body: nothing is shared."""
    start = torch.tensor(row.prefix, dtype=torch.long)
    return ScoringRow((), torch.cat([start, row.body]), row.continuation)


def _row_scores(reference: Tensor, candidate: Tensor, token_ids: Tensor) -> TokenScores:
    index = token_ids[:, None]
    log_p, log_q = log_probs(reference), log_probs(candidate)
    return TokenScores(
        forward=kl_of_log_probs(log_p, log_q).cpu(),
        reverse=kl_of_log_probs(log_q, log_p).cpu(),
        js=js_of_log_probs(log_p, log_q).cpu(),
        same_top=(reference.argmax(-1) == candidate.argmax(-1)).float().cpu(),
        reference_logprobs=log_p.gather(-1, index)[:, 0].cpu(),
        candidate_logprobs=log_q.gather(-1, index)[:, 0].cpu(),
    )
