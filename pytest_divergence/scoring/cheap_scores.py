"""What one reading of a prompt tells: how natural it is, and how the models part at its answer.

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
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Side
from pytest_divergence.scoring.metrics import built_in_values
from pytest_divergence.scoring.teacher_forcing import (
    SCORING_BATCH,
    ScoringRow,
    TokenScores,
    score_tokens,
    token_log_probs,
)

NUM_TOKENS = 3
"""Of a wanted answer: what decides is how it begins."""
NEVER = -7.0
"""Nats: a beginning that the reference would write once in a thousand answers it does not write.
From there on, only how likely the candidate writes it tells two prompts apart."""
LEAST_LOG_PROB = -12.0
"""Nats per token: how unlikely the reference can be made before the log-ratio gains nothing more.
Without it a search would rather rule a wanted answer out for the reference than have it written."""


@dataclass(frozen=True)
class Screened:
    """What the first tokens of a prompt's answer say."""

    first_token_kl: float
    """Divergence at the first token, nats."""
    promise: float
    """That divergence, or how much likelier the candidate begins with a wanted answer, nats."""


def prompt_nlls(pair: ModelPair, side: Side, prompts: Sequence[Prompt]) -> list[float]:
    """Mean negative log-likelihood of each prompt's own tokens under one model, nats per token.

    For a single user turn these are the user's tokens, without what the template writes around
    them; perplexity is the exponential of it.
    """
    suffix = len(pair.chat.user_suffix) if pair.chat.template is not None else 0
    return map_batches(
        pair.prompt_rows(prompts),
        lambda rows: _user_nlls(side, rows, suffix),
        length=lambda row: len(row[1]),
        max_rows=SCORING_BATCH,
    )


def screen(
    pair: ModelPair, prompts: Sequence[Prompt], *, metric: MetricName, aim: str = ""
) -> list[Screened]:
    """Both models read each prompt, and the beginning of the answer that is wanted, if any is."""
    wanted = tuple(beginning(pair, aim)) if aim else ()
    rows = [ScoringRow(*row, wanted or (0,)) for row in pair.prompt_rows(prompts)]
    found = []
    for scores in score_tokens(pair, rows, metric=metric):
        first = _first_divergence(scores, metric)
        found.append(Screened(first, _log_ratio(scores) if wanted else first))
    return found


def first_token_scores(
    pair: ModelPair, prompts: Sequence[Prompt], *, metric: MetricName = "symmetric"
) -> list[float]:
    """Divergence at the response's first token only, nats: what screening without an aim reads."""
    return [one.first_token_kl for one in screen(pair, prompts, metric=metric)]


def beginning(pair: ModelPair, answer: str) -> list[int]:
    """The first token ids of an answer."""
    ids: list[int] = pair.chat.tokenizer.encode(answer, add_special_tokens=False)
    return ids[:NUM_TOKENS]


@torch.no_grad()
def _user_nlls(
    side: Side, rows: Sequence[tuple[tuple[int, ...], Tensor]], num_suffix: int
) -> list[float]:
    """Mean over the user's tokens: all but each row's first, and the template's last."""
    prefixes = {prefix for prefix, _ in rows}
    shared = next(iter(prefixes)) if len(prefixes) == 1 else ()
    bodies = [torch.tensor([*prefix[len(shared) :], *body.tolist()]) for prefix, body in rows]
    longest = max(len(body) for _, body in rows)
    positions = side.positions(bodies, prefix=shared, num_positions=longest)
    targets = [ids[1 : 1 + max(1, len(ids) - 1 - num_suffix)] for _, ids in rows]
    places = [
        (row + 1) * longest - len(ids) + torch.arange(len(wanted))
        for row, ((_, ids), wanted) in enumerate(zip(rows, targets, strict=True))
    ]
    logprobs = token_log_probs(side, positions.at(torch.cat(places)), torch.cat(targets))
    # A base model's empty prompt has no token: nothing was written.
    return [
        -float(one.double().mean()) if len(one) else 0.0
        for one in torch.split(logprobs, [len(wanted) for wanted in targets])
    ]


def _log_ratio(scores: TokenScores) -> float:
    reference = scores.reference_logprobs.sum().clamp(min=NEVER)
    return float(scores.candidate_logprobs.sum() - reference)


def _first_divergence(scores: TokenScores, metric: MetricName) -> float:
    """The divergence at the first token of a continuation, nats."""
    if scores.added is not None:
        return float(scores.added[0])
    parts = (float(one[0]) for one in (scores.forward, scores.reverse, scores.js))
    return built_in_values(*parts)[metric]
