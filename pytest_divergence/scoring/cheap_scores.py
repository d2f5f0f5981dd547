"""Scores from one pass over a prompt: how natural it is, and how the models' answers begin.

The negative log-likelihood of the prompt's own words, and the divergence of the answer's first
token, or how likely a wanted answer begins. Writes no continuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_divergence.core.settings import MetricName
from pytest_divergence.models.batching import map_batches
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.endpoints.served_side import ServedSide
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Side
from pytest_divergence.scoring.estimates import scores_of_the_likeliest
from pytest_divergence.scoring.metrics import built_in_metric, built_in_values
from pytest_divergence.scoring.residual import residual_divergences
from pytest_divergence.scoring.teacher_forcing import (
    SCORING_BATCH,
    ScoringRow,
    TokenScores,
    continuation_log_probs,
    score_tokens,
    token_log_probs,
)

NUM_TOKENS = 3
"""Tokens of a wanted answer that are scored: its beginning decides."""
NEVER = -7.0
"""Nats: a beginning in one of a thousand answers counts as one that the reference never writes.
From there on, only the candidate's probability ranks two prompts."""
LEAST_LOG_PROB = -12.0
"""Nats per token below which a less likely reference no longer raises the log-ratio. Without it a
search would make the reference avoid a wanted answer instead of making the candidate write it."""


@dataclass(frozen=True)
class Screened:
    """Scores of the first tokens of a prompt's answer."""

    first_token_kl: float
    """Divergence at the first token, nats; the residual one, where a tilt is known."""
    promise: float
    """`first_token_kl`, or how much likelier the candidate begins with a wanted answer, nats."""


def prompt_nlls(pair: ModelPair, side: Side, prompts: Sequence[Prompt]) -> list[float]:
    """Return the mean negative log-likelihood of each prompt's own tokens under one model.

    In nats per token; perplexity is the exponential of it. For a single user turn these are the
    user's tokens, without those that the template adds.
    """
    suffix = len(pair.chat.user_suffix) if pair.chat.template is not None else 0
    return map_batches(
        pair.prompt_rows(prompts),
        lambda rows: _user_nlls(side, rows, suffix),
        length=lambda row: len(row[1]),
        max_rows=SCORING_BATCH,
    )


def screen(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    *,
    metric: MetricName,
    aim: str = "",
    tilt: Tensor | None = None,
) -> list[Screened]:
    """Score the beginning of each prompt's answer, or of the wanted answer `aim`, if any.

    With a `tilt` and without an aim it is the residual divergence that is scored.
    """
    if tilt is not None and not aim:
        residuals = residual_divergences(pair, prompts, tilt, metric=built_in_metric(metric))
        return [Screened(value, value) for value in residuals]
    wanted = tuple(beginning(pair, aim)) if aim else ()
    rows = [ScoringRow(*row, wanted or (0,)) for row in pair.prompt_rows(prompts)]
    found = []
    measured = (
        scores_of_the_likeliest(pair, rows)
        if pair.is_served
        else score_tokens(pair, rows, metric=metric)
    )
    for scores in measured:
        first = _first_divergence(scores, metric)
        found.append(Screened(first, _log_ratio(scores) if wanted else first))
    return found


def first_token_scores(
    pair: ModelPair, prompts: Sequence[Prompt], *, metric: MetricName = "symmetric"
) -> list[float]:
    """Return the divergence at each answer's first token, nats, as a screen without an aim."""
    return [scores.first_token_kl for scores in screen(pair, prompts, metric=metric)]


def beginning(pair: ModelPair, answer: str) -> list[int]:
    """Return the first token ids of an answer."""
    ids: list[int] = pair.chat.tokenizer.encode(answer, add_special_tokens=False)
    return ids[:NUM_TOKENS]


@torch.no_grad()
def _user_nlls(
    side: Side, rows: Sequence[tuple[tuple[int, ...], Tensor]], num_suffix: int
) -> list[float]:
    """Return the mean over the user's tokens: all but each row's first, and the template's last."""
    prefixes = {prefix for prefix, _ in rows}
    shared = next(iter(prefixes)) if len(prefixes) == 1 else ()
    bodies = [torch.tensor([*prefix[len(shared) :], *body.tolist()]) for prefix, body in rows]
    longest = max(len(body) for _, body in rows)
    targets = [ids[1 : 1 + max(1, len(ids) - 1 - num_suffix)] for _, ids in rows]
    if isinstance(side, ServedSide):
        asked = [
            ScoringRow(prefix, ids[:1], tuple(wanted.tolist()))
            for (prefix, ids), wanted in zip(rows, targets, strict=True)
        ]
        return [_mean_nll(found) for found in continuation_log_probs(side, asked)]
    positions = side.positions(bodies, prefix=shared, num_positions=longest)
    places = [
        (row + 1) * longest - len(ids) + torch.arange(len(wanted))
        for row, ((_, ids), wanted) in enumerate(zip(rows, targets, strict=True))
    ]
    logprobs = token_log_probs(side, positions.at(torch.cat(places)), torch.cat(targets))
    return [
        _mean_nll(found) for found in torch.split(logprobs, [len(wanted) for wanted in targets])
    ]


def _mean_nll(logprobs: Tensor) -> float:
    """Return the mean over tokens; 0 for a base model's empty prompt, of which none was written."""
    return -float(logprobs.cpu().double().mean()) if len(logprobs) else 0.0


def _log_ratio(scores: TokenScores) -> float:
    reference = scores.reference_logprobs.sum().clamp(min=NEVER)
    return float(scores.candidate_logprobs.sum() - reference)


def _first_divergence(scores: TokenScores, metric: MetricName) -> float:
    """Return the divergence at the first token of a continuation, nats."""
    if scores.added is not None:
        return float(scores.added[0])
    parts = (float(values[0]) for values in (scores.forward, scores.reverse, scores.js))
    return built_in_values(*parts)[metric]
