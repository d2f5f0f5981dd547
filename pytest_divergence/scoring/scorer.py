"""The measurement of prompts: continuations of both models, scored through both.

Used by searches, controls, cases and users' own tests alike, so that their numbers compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_divergence.core.cases import Measurement
from pytest_divergence.core.settings import MetricName
from pytest_divergence.models.batching import map_batches
from pytest_divergence.models.chat import Prompt
from pytest_divergence.models.decoding import decode_greedily, decode_sampled, row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import ModelSide
from pytest_divergence.scoring.measurement import Estimator, perplexity, same_top_share, summarise
from pytest_divergence.scoring.tokens import (
    SCORING_BATCH,
    ScoringRow,
    TokenScores,
    check_finite,
    score_tokens,
)

Ids = tuple[int, ...]
Row = tuple[Ids, Tensor]
"""A prompt's ids: the shared prefix, and the rest."""


@dataclass(frozen=True)
class Continuations:
    """Token ids after one prompt, several from each model, end of turn included."""

    reference: tuple[Ids, ...]
    candidate: tuple[Ids, ...]


@dataclass(frozen=True)
class PromptScore:
    """What was measured on one prompt."""

    prompt: Prompt
    prompt_ids: Ids
    continuations: Continuations
    measurement: Measurement
    same_top_share: float
    """Share of positions at which both models would choose the same token."""
    reference_perplexity: float
    """Of the reference on its own continuations."""
    candidate_perplexity: float
    """Of the candidate on its own continuations."""


def score_prompts(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    *,
    metric: MetricName = "symmetric",
    num_continuations: int = 4,
    max_new_tokens: int = 32,
    seed: int = 0,
    continuations: Sequence[Continuations] | None = None,
) -> list[PromptScore]:
    """Measure each prompt on continuations sampled at T = 1, or on the ones given.

    Returns one score a prompt, in order. A prompt's numbers do not depend on the others: its
    samples are drawn from a random stream named by `seed` and its own ids. Raises
    `NonFiniteLogitsError`, `MeasurementError`, and `ValueError` for counts below 1 or
    continuations that are not one entry a prompt.
    """
    estimator: Estimator = "fresh" if continuations is None else "stored"
    if continuations is None:
        continuations = sample_continuations(
            pair,
            prompts,
            num_continuations=num_continuations,
            max_new_tokens=max_new_tokens,
            seed=seed,
        )
    if len(continuations) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts, but continuations for {len(continuations)}")
    return score_continuations(pair, prompts, continuations, metric=metric, estimator=estimator)


def sample_continuations(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    *,
    num_continuations: int,
    max_new_tokens: int,
    seed: int,
) -> list[Continuations]:
    """Fresh continuations of each prompt from both models, at temperature 1."""
    if num_continuations < 1 or max_new_tokens < 1:
        raise ValueError(
            f"num_continuations={num_continuations} and max_new_tokens={max_new_tokens} must be "
            "at least 1"
        )
    rows = pair.prompt_rows(prompts)
    repeated = [row for row in rows for _ in range(num_continuations)]

    def sample(side: ModelSide) -> list[tuple[Ids, ...]]:
        seeds = [
            row_seed(seed, side.role, index, *prefix, *body.tolist())
            for prefix, body in rows
            for index in range(num_continuations)
        ]

        def decode(prefix: Ids, chosen: list[int]) -> list[list[int]]:
            return decode_sampled(
                side,
                [repeated[index][1] for index in chosen],
                prefix=prefix,
                max_new_tokens=max_new_tokens,
                stop_ids=pair.chat.stop_ids,
                seeds=[seeds[index] for index in chosen],
            )

        flat = by_prefix(repeated, decode)
        starts = range(0, len(flat), num_continuations)
        return [tuple(flat[start : start + num_continuations]) for start in starts]

    return list(map(Continuations, sample(pair.reference), sample(pair.candidate)))


def greedy_continuations(
    pair: ModelPair, prompts: Sequence[Prompt], *, max_new_tokens: int
) -> list[Continuations]:
    """One continuation of most likely tokens from each model: what the search works on."""
    rows = pair.prompt_rows(prompts)

    def decode(side: ModelSide) -> list[tuple[Ids, ...]]:
        flat = by_prefix(
            rows,
            lambda prefix, chosen: decode_greedily(
                side,
                [rows[index][1] for index in chosen],
                prefix=prefix,
                max_new_tokens=max_new_tokens,
                stop_ids=pair.chat.stop_ids,
            ),
        )
        return [(ids,) for ids in flat]

    return list(map(Continuations, decode(pair.reference), decode(pair.candidate)))


def by_prefix(
    rows: Sequence[Row], compute: Callable[[Ids, list[int]], Sequence[Sequence[int]]]
) -> list[Ids]:
    """Run `compute(prefix, indices)` once per distinct prefix; results in the order of `rows`."""
    groups: dict[Ids, list[int]] = {}
    for index, (prefix, _) in enumerate(rows):
        groups.setdefault(prefix, []).append(index)
    results: dict[int, Ids] = {}
    for prefix, chosen in groups.items():
        computed = compute(prefix, chosen)
        results.update(zip(chosen, map(tuple, computed), strict=True))
    return [results[index] for index in range(len(rows))]


def score_continuations(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    continuations: Sequence[Continuations],
    *,
    metric: MetricName,
    estimator: Estimator,
) -> list[PromptScore]:
    """Teacher-force the given continuations through both models and sum them up."""
    rows = pair.prompt_rows(prompts)
    scoring_rows = [
        ScoringRow(prefix, body, ids)
        for (prefix, body), given in zip(rows, continuations, strict=True)
        for ids in (*given.reference, *given.candidate)
    ]
    flat = iter(score_tokens(pair, scoring_rows))
    scores = []
    for prompt, (prefix, body), given in zip(prompts, rows, continuations, strict=True):
        on_reference = [next(flat) for _ in given.reference]
        on_candidate = [next(flat) for _ in given.candidate]
        scores.append(
            PromptScore(
                prompt=prompt,
                prompt_ids=(*prefix, *body.tolist()),
                continuations=given,
                measurement=summarise(
                    on_reference, on_candidate, metric=metric, estimator=estimator
                ),
                same_top_share=same_top_share([*on_reference, *on_candidate]),
                reference_perplexity=_perplexity(on_reference, "reference_logprobs"),
                candidate_perplexity=_perplexity(on_candidate, "candidate_logprobs"),
            )
        )
    return scores


def prompt_nlls(pair: ModelPair, side: ModelSide, prompts: Sequence[Prompt]) -> list[float]:
    """Mean negative log-likelihood of each prompt's own tokens under one model, nats per token.

    For a single user turn these are the user's tokens, without what the template writes around
    them; perplexity is the exponential of it.
    """
    suffix = len(pair.chat.user_suffix) if pair.chat.template is not None else 0

    def compute(rows: list[Row]) -> list[float]:
        return [_user_nll(*one, suffix) for one in _logits_of(side, rows)]

    return map_batches(
        pair.prompt_rows(prompts), compute, length=lambda row: len(row[1]), max_rows=SCORING_BATCH
    )


def first_token_scores(
    pair: ModelPair, prompts: Sequence[Prompt], *, metric: MetricName = "symmetric"
) -> list[float]:
    """Divergence at the response's first token only, nats: cheap, and used to screen proposals."""
    rows = pair.prompt_rows(prompts)
    zeros = [ScoringRow(prefix, body, (0,)) for prefix, body in rows]
    scores = score_tokens(pair, zeros)
    return [_first(one, metric) for one in scores]


def _first(scores: TokenScores, metric: MetricName) -> float:
    forward, reverse = float(scores.forward[0]), float(scores.reverse[0])
    values = {
        "symmetric": (forward + reverse) / 2,
        "forward": forward,
        "reverse": reverse,
        "js": float(scores.js[0]),
    }
    return values[metric]


@torch.no_grad()
def _logits_of(side: ModelSide, rows: Sequence[Row]) -> list[tuple[Tensor, Tensor]]:
    """Each row's ids (L,) and the logits at each of them (L, V)."""
    prefixes = {prefix for prefix, _ in rows}
    shared = next(iter(prefixes)) if len(prefixes) == 1 else ()
    bodies = [torch.tensor([*prefix[len(shared) :], *body.tolist()]) for prefix, body in rows]
    logits = side.logits(bodies, prefix=shared, num_logits=max(map(len, bodies)))
    check_finite(logits, side)
    return [(body, one[-len(body) :]) for body, one in zip(bodies, logits, strict=True)]


def _user_nll(ids: Tensor, logits: Tensor, num_suffix: int) -> float:
    """Mean over the user's tokens: all but the row's first, and the template's last."""
    num_user = max(1, len(ids) - 1 - num_suffix)
    targets = ids[1 : 1 + num_user].to(logits.device)[:, None]
    if not len(targets):  # a base model's empty prompt: nothing was written
        return 0.0
    logprobs = logits[: len(targets)].log_softmax(-1).gather(-1, targets)
    return -float(logprobs.double().mean())


def _perplexity(scores: Sequence[TokenScores], name: str) -> float:
    return perplexity(torch.cat([getattr(one, name) for one in scores]))
