"""Comparison of both models at each token of a continuation, for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pytest_divergence.core.report import TokenComparison
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Decoding, Told
from pytest_divergence.models.tokenizers import decoded
from pytest_divergence.scoring.divergences import forward_kl, reverse_kl
from pytest_divergence.scoring.estimates import token_scores, told_by_both
from pytest_divergence.scoring.teacher_forcing import check_finite, read_prompts

NUM_TOP = 5
ADDED_TOKEN = "[an added token]"
"""Text of every token that only one of the models knows."""


@torch.no_grad()
def compare_tokens(
    pair: ModelPair, prompt: Prompt, continuation: Sequence[int]
) -> list[TokenComparison]:
    """Return divergences and probabilities of both models at each token of one continuation."""
    ((prefix, body),) = pair.prompt_rows([prompt])
    states = read_prompts(pair, [body], prefix=prefix)
    if pair.is_served:
        return _from_heads(pair, states, continuation)
    reference, candidate = (_logits(state, continuation).to(pair.device) for state in states)
    forward, reverse = forward_kl(reference, candidate), reverse_kl(reference, candidate)
    probabilities = reference.softmax(-1), candidate.softmax(-1)
    comparisons = []
    for position, token_id in enumerate(continuation):
        reference_p, candidate_p = (p[position] for p in probabilities)
        comparisons.append(
            TokenComparison(
                text=_token_text(pair, token_id),
                forward_kl=max(0.0, float(forward[position])),
                reverse_kl=max(0.0, float(reverse[position])),
                reference_p=float(reference_p[token_id]),
                candidate_p=float(candidate_p[token_id]),
                reference_top=_top(pair, reference_p),
                candidate_top=_top(pair, candidate_p),
            )
        )
    return comparisons


def _from_heads(
    pair: ModelPair, states: tuple[Decoding, Decoding], continuation: Sequence[int]
) -> list[TokenComparison]:
    """Compare what both models tell of the tokens of a continuation that the candidate wrote."""
    ((reference, candidate),) = told_by_both(states, [0], [continuation])
    scores = token_scores(reference, candidate, "candidate")
    return [
        TokenComparison(
            text=_token_text(pair, token_id),
            forward_kl=float(scores.forward[position]),
            reverse_kl=float(scores.reverse[position]),
            reference_p=math.exp(float(reference.chosen[position])),
            candidate_p=math.exp(float(candidate.chosen[position])),
            reference_top=_likeliest(pair, reference, position),
            candidate_top=_likeliest(pair, candidate, position),
        )
        for position, token_id in enumerate(continuation)
    ]


def _likeliest(pair: ModelPair, told: Told, position: int) -> list[tuple[str, float]]:
    ids, log_ps = told.head_ids[position, :NUM_TOP], told.head[position, :NUM_TOP]
    both = zip(ids.tolist(), log_ps.exp().tolist(), strict=True)
    return [(_token_text(pair, token_id), p) for token_id, p in both]


def _logits(state: Decoding, continuation: Sequence[int]) -> Tensor:
    """Return a model's logits at each token: (T, V), checked; it has read the prompt."""
    (positions,) = state.positions_of([continuation])
    logits = positions.logits(0, len(positions))
    check_finite(logits, state.side)
    return logits


def _top(pair: ModelPair, probabilities: Tensor) -> list[tuple[str, float]]:
    values, ids = probabilities.topk(min(NUM_TOP, len(probabilities)))
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return [(_token_text(pair, token_id), value) for token_id, value in pairs]


def _token_text(pair: ModelPair, token_id: int) -> str:
    """Return a token as it is written, control tokens included."""
    if token_id >= pair.reference.vocab_size:
        return ADDED_TOKEN
    return decoded(pair.chat.tokenizer, [token_id], keep_special=True)
