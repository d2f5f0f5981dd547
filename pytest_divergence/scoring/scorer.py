"""The measurement of prompts: continuations of both models, scored through both.

Used by searches, controls, cases and users' own tests alike, so that their numbers compare.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from pytest_divergence.core.cases import NATS_PER_TOKEN, Measurement
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.tokens import StoredTokens, prompt_digest
from pytest_divergence.models.chat import Prompt
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Decoding
from pytest_divergence.scoring.continuations import (
    Continuations,
    Ids,
    Row,
    Write,
    in_flight,
    most_likely,
    read,
    sampler,
    written,
)
from pytest_divergence.scoring.measurement import Estimator, perplexity, same_top_share, summarise
from pytest_divergence.scoring.metrics import AddedMetric, added_metric
from pytest_divergence.scoring.tokens import (
    TokenScores,
    score_states,
)


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
        write = sampler(pair, num_continuations, max_new_tokens, seed, temperature)
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
    write = most_likely(pair, max_new_tokens)
    return _score(pair, prompts, write, metric=metric, estimator="fresh")


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
        states, bodies = read(pair, [rows[index] for index in batch])
        if callable(source):
            given = written(states, bodies, source)
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

    return in_flight(rows, compute)


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


def stored_tokens(case_id: str, score: PromptScore) -> StoredTokens:
    """What a suite keeps of a score, to measure the same continuations again."""
    return StoredTokens(
        id=case_id,
        prompt_sha256=prompt_digest(score.prompt_ids),
        reference=[list(ids) for ids in score.continuations.reference],
        candidate=[list(ids) for ids in score.continuations.candidate],
    )


def _perplexity(scores: Sequence[TokenScores], name: str) -> float:
    return perplexity(torch.cat([getattr(one, name) for one in scores]))
