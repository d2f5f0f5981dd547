"""The measurement of prompts: continuations of both models, scored through both.

Used by searches, controls, cases and users' own tests alike, so that their numbers compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from pytest_divergence.core.cases import NATS_PER_TOKEN, Measurement
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.tokens import StoredTokens, prompt_digest
from pytest_divergence.models.batching import by_prefix, map_batches
from pytest_divergence.models.chat import Prompt
from pytest_divergence.models.decoding import (
    DECODING_FREE_PADDING,
    greedy_from,
    row_seed,
    samples_from,
)
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Decoding, ModelSide
from pytest_divergence.scoring.measurement import Estimator, perplexity, same_top_share, summarise
from pytest_divergence.scoring.metrics import AddedMetric, added_metric
from pytest_divergence.scoring.tokens import (
    SCORING_BATCH,
    TokenScores,
    read_prompts,
    score_states,
    token_log_probs,
)

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
"""From a model that has read some prompts, and their ids, to its continuations of each."""


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
    log_ratios: tuple[float, ...]
    """ln p(candidate) - ln p(reference), nats, of each token of the candidate's first one."""
    on_candidate: tuple[TokenScores, ...] = field(compare=False, repr=False)
    """Of each of the candidate's continuations, under both models."""


def score_prompts(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    *,
    metric: MetricName = "symmetric",
    num_continuations: int = 4,
    max_new_tokens: int = 32,
    seed: int = 0,
    temperature: float = 1.0,
    continuations: Sequence[Continuations] | None = None,
) -> list[PromptScore]:
    """Measure each prompt on continuations sampled at T = 1, or on the ones given.

    Returns one score a prompt, in order. A prompt's numbers do not depend on the others: its
    samples are drawn from a random stream named by `seed` and its own ids. At another
    `temperature` it is still the models' own distributions, at T = 1, whose divergence is read,
    but on texts that are not typical of them: such numbers compare with each other alone. Raises
    `NonFiniteLogitsError`, `MeasurementError`, and `ValueError` for counts below 1, a temperature
    that is not positive, or continuations that are not one entry a prompt.
    """
    if continuations is None:
        _check_counts(num_continuations, max_new_tokens)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature={temperature} must be positive and finite")
        write = _sampler(pair, num_continuations, max_new_tokens, seed, temperature)
        return _score(pair, prompts, write, metric=metric, estimator="fresh")
    if len(continuations) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts, but continuations for {len(continuations)}")
    return _score(pair, prompts, continuations, metric=metric, estimator="stored")


def score_greedily(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    *,
    metric: MetricName = "symmetric",
    max_new_tokens: int = 16,
) -> list[PromptScore]:
    """Measure each prompt on one continuation of most likely tokens from each model.

    What a search works on: cheap and without sampling noise, but not what a case asserts.
    """
    write = _most_likely(pair, max_new_tokens)
    return _score(pair, prompts, write, metric=metric, estimator="fresh")


def sample_continuations(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    *,
    num_continuations: int,
    max_new_tokens: int,
    seed: int,
) -> list[Continuations]:
    """Fresh continuations of each prompt from both models, at temperature 1, not scored."""
    _check_counts(num_continuations, max_new_tokens)
    return _continue(pair, prompts, _sampler(pair, num_continuations, max_new_tokens, seed))


def greedy_continuations(
    pair: ModelPair, prompts: Sequence[Prompt], *, max_new_tokens: int
) -> list[Continuations]:
    """One continuation of most likely tokens from each model, not scored."""
    return _continue(pair, prompts, _most_likely(pair, max_new_tokens))


def _score(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    source: Sequence[Continuations] | Write,
    *,
    metric: MetricName,
    estimator: Estimator,
) -> list[PromptScore]:
    """Both models read each prompt once, write (unless given) and score the continuations."""
    rows = pair.prompt_rows(prompts)
    added = added_metric(pair, metric)

    def compute(batch: list[int]) -> list[PromptScore]:
        states, bodies = _read(pair, [rows[index] for index in batch])
        if callable(source):
            given = _written(states, bodies, source)
        else:
            given = [source[index] for index in batch]
        scores = iter(_score_states(states, given, added))
        return [
            _prompt_score(
                prompts[index],
                rows[index],
                one,
                next(scores),
                next(scores),
                metric=metric,
                unit=added.unit if added is not None else NATS_PER_TOKEN,
                estimator=estimator,
            )
            for index, one in zip(batch, given, strict=True)
        ]

    return _in_flight(rows, compute)


def _continue(pair: ModelPair, prompts: Sequence[Prompt], write: Write) -> list[Continuations]:
    rows = pair.prompt_rows(prompts)

    def compute(batch: list[int]) -> list[Continuations]:
        return _written(*_read(pair, [rows[index] for index in batch]), write)

    return _in_flight(rows, compute)


def _read(pair: ModelPair, rows: Sequence[Row]) -> tuple[tuple[Decoding, Decoding], list[Tensor]]:
    """Both models after the given prompts, which share one prefix, and the prompts' ids."""
    bodies = [body for _, body in rows]
    return read_prompts(pair, bodies, prefix=rows[0][0]), bodies


def _written(
    states: tuple[Decoding, Decoding], bodies: Sequence[Tensor], write: Write
) -> list[Continuations]:
    both = (write(state, bodies) for state in states)
    return [Continuations(*one) for one in zip(*both, strict=True)]


def _in_flight(
    rows: Sequence[Row], compute: Callable[[list[int]], Sequence[Result]]
) -> list[Result]:
    """`compute` over indices of rows that share a prefix, a limited number of them at a time."""
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


def _score_states(
    states: tuple[Decoding, Decoding], given: Sequence[Continuations], added: AddedMetric | None
) -> Iterator[list[TokenScores]]:
    """For each prompt in turn: the scores on the reference's, then on the candidate's."""
    groups = [ids for one in given for ids in (one.reference, one.candidate)]
    owners = [index // 2 for index, ids in enumerate(groups) for _ in ids]
    flat = iter(score_states(states, owners, [ids for group in groups for ids in group], added))
    for group in groups:
        yield [next(flat) for _ in group]


def _prompt_score(
    prompt: Prompt,
    row: Row,
    given: Continuations,
    on_reference: list[TokenScores],
    on_candidate: list[TokenScores],
    *,
    metric: MetricName,
    unit: str,
    estimator: Estimator,
) -> PromptScore:
    prefix, body = row
    return PromptScore(
        prompt=prompt,
        prompt_ids=(*prefix, *body.tolist()),
        continuations=given,
        measurement=summarise(
            on_reference, on_candidate, metric=metric, estimator=estimator, unit=unit
        ),
        same_top_share=same_top_share([*on_reference, *on_candidate]),
        reference_perplexity=_perplexity(on_reference, "reference_logprobs"),
        candidate_perplexity=_perplexity(on_candidate, "candidate_logprobs"),
        log_ratios=tuple(
            (on_candidate[0].candidate_logprobs - on_candidate[0].reference_logprobs).tolist()
        ),
        on_candidate=tuple(on_candidate),
    )


def _sampler(
    pair: ModelPair,
    num_continuations: int,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
) -> Write:
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


def _most_likely(pair: ModelPair, max_new_tokens: int) -> Write:
    def write(state: Decoding, rows: Sequence[Tensor]) -> list[tuple[Ids, ...]]:
        forked = state.fork(range(len(rows)))
        return [(tuple(ids),) for ids in greedy_from(forked, max_new_tokens, pair.chat.stop_ids)]

    return write


def stored_tokens(case_id: str, score: PromptScore) -> StoredTokens:
    """What a suite keeps of a score, to measure the same continuations again."""
    return StoredTokens(
        id=case_id,
        prompt_sha256=prompt_digest(score.prompt_ids),
        reference=[list(ids) for ids in score.continuations.reference],
        candidate=[list(ids) for ids in score.continuations.candidate],
    )


def _check_counts(num_continuations: int, max_new_tokens: int) -> None:
    if num_continuations < 1 or max_new_tokens < 1:
        raise ValueError(
            f"num_continuations={num_continuations} and max_new_tokens={max_new_tokens} must be "
            "at least 1"
        )


def prompt_nlls(pair: ModelPair, side: ModelSide, prompts: Sequence[Prompt]) -> list[float]:
    """Mean negative log-likelihood of each prompt's own tokens under one model, nats per token.

    For a single user turn these are the user's tokens, without what the template writes around
    them; perplexity is the exponential of it.
    """
    suffix = len(pair.chat.user_suffix) if pair.chat.template is not None else 0

    def compute(rows: list[Row]) -> list[float]:
        return _user_nlls(side, rows, suffix)

    return map_batches(
        pair.prompt_rows(prompts), compute, length=lambda row: len(row[1]), max_rows=SCORING_BATCH
    )


def first_divergence(scores: TokenScores, metric: MetricName) -> float:
    """The divergence at the first token of a continuation, nats."""
    forward, reverse = float(scores.forward[0]), float(scores.reverse[0])
    values = {
        "symmetric": (forward + reverse) / 2,
        "forward": forward,
        "reverse": reverse,
        "js": float(scores.js[0]),
    }
    return float(scores.added[0]) if scores.added is not None else values[metric]


@torch.no_grad()
def _user_nlls(side: ModelSide, rows: Sequence[Row], num_suffix: int) -> list[float]:
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


def _perplexity(scores: Sequence[TokenScores], name: str) -> float:
    return perplexity(torch.cat([getattr(one, name) for one in scores]))
