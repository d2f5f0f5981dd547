"""The measurement of prompts: continuations of both models, scored through both.

Used by searches, controls, cases and users' own tests alike, so that their numbers compare.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from pytest_divergence.core.cases import FULL, NATS_PER_TOKEN, Measurement
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.tokens import StoredTokens, prompt_digest
from pytest_divergence.models.chat_format import Prompt
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
from pytest_divergence.scoring.estimates import (
    Source,
    estimated,
    evidence_of,
    importance_weights,
    jensen_shannon,
    k3,
)
from pytest_divergence.scoring.metrics import (
    AddedMetric,
    added_metric,
    built_in_values,
)
from pytest_divergence.scoring.teacher_forcing import TokenScores, score_states

Estimator = Literal["fresh", "stored"]
LOG_P_DIGITS = 5
"""Decimals of a stored log-probability; in float32, one of -10 has no more."""


@dataclass(frozen=True)
class PromptScore:
    """Measurement of one prompt."""

    prompt: Prompt
    prompt_ids: Ids
    continuations: Continuations
    measurement: Measurement
    same_top_share: float
    """Share of positions at which both models would choose the same token."""
    reference_perplexity: float
    """Perplexity of the reference on its own continuations."""
    candidate_perplexity: float
    """Perplexity of the candidate on its own continuations."""
    log_ratios: tuple[float, ...]
    """ln p(candidate) - ln p(reference), nats, for each token of its first continuation."""
    on_reference: tuple[TokenScores, ...] = field(compare=False, repr=False)
    """Scores of each of the reference's continuations, under both models."""
    on_candidate: tuple[TokenScores, ...] = field(compare=False, repr=False)
    """Scores of each of the candidate's continuations, under both models."""


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
    `temperature` the divergence is still that of the models' own distributions, at T = 1, but on
    texts that are not typical of them: compare such numbers only with each other. Raises
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

    A search works on these scores: cheap and without sampling noise. A case does not assert them.
    """
    write = most_likely(pair, max_new_tokens)
    return _score(pair, prompts, write, metric=metric, estimator="fresh")


def stored_tokens(case_id: str, score: PromptScore) -> StoredTokens:
    """Return the part of a score that a suite keeps, to measure the same continuations again."""
    log_p = score.continuations.candidate_log_p
    return StoredTokens(
        id=case_id,
        prompt_sha256=prompt_digest(score.prompt_ids),
        reference=[list(ids) for ids in score.continuations.reference],
        candidate=[list(ids) for ids in score.continuations.candidate],
        candidate_log_p=None
        if log_p is None
        else [[round(value, LOG_P_DIGITS) for value in values] for values in log_p],
    )


def summarise(
    on_reference: Sequence[TokenScores],
    on_candidate: Sequence[TokenScores],
    *,
    metric: MetricName,
    estimator: Estimator = "fresh",
    unit: str = NATS_PER_TOKEN,
    evidence: str = FULL,
    written_log_p: Sequence[Sequence[float]] | None = None,
) -> Measurement:
    """Return one prompt's measurement from the scores of both models' continuations.

    `unit` is the metric's, `evidence` what was known at each position, `written_log_p` the ln p of
    the tokens of `on_candidate` by the candidate that wrote them, one list a continuation; without
    it there is no `k3` but that of the metric `forward`. Raises `MeasurementError` where a model
    has no continuation or a value is not finite.

    Total nats over number of positions, end of turn included. `forward` is measured on the
    reference's own continuations and `reverse` on the candidate's, so each is an estimate of the
    divergence between the two models' distributions over texts, per token, in its direction.
    """
    if not on_reference or not on_candidate:
        raise MeasurementError(
            "a measurement needs a continuation from each model, but one has none"
        )
    values = _values(on_reference, on_candidate, metric)
    largest = max(
        *(float(scores.forward.max()) for scores in on_reference),
        *(float(scores.reverse.max()) for scores in on_candidate),
    )
    if not all(map(math.isfinite, (*values.values(), largest))):
        raise MeasurementError(f"the divergence is not a finite number: {values}")
    return Measurement(
        value=values[metric],
        metric=metric,
        forward=values["forward"],
        reverse=values["reverse"],
        js=values["js"],
        sd=_spread(on_reference, on_candidate, metric),
        max_token=largest,
        num_tokens=sum(len(scores.forward) for scores in (*on_reference, *on_candidate)),
        num_continuations=len(on_reference),
        estimator=estimator,
        unit=unit,
        evidence=evidence,
        k3=_of_chosen(on_reference, on_candidate, written_log_p).get(metric),
    )


def same_top_share(scores: Sequence[TokenScores]) -> float:
    """Return the share of positions at which both models would choose the same token."""
    return float(torch.cat([tokens.same_top for tokens in scores]).mean())


def perplexity(logprobs: Tensor) -> float:
    """Return exp of the mean negative log-probability: (T,) -> scalar.

    A perplexity above the largest float, about 1.8e308, is returned as that float.
    """
    nll = -float(logprobs.double().mean())
    return math.exp(nll) if nll < math.log(sys.float_info.max) else sys.float_info.max


def _score(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    source: Sequence[Continuations] | Write,
    *,
    metric: MetricName,
    estimator: Estimator,
) -> list[PromptScore]:
    """Let both models read each prompt once, write (unless given) and score the continuations."""
    rows = pair.prompt_rows(prompts)
    added = added_metric(pair, metric)
    if added is not None and pair.is_served:
        raise MeasurementError(
            f"the metric {metric!r} needs the probabilities of all tokens, and a served model "
            f"tells those of some; give {setting('metric')}={'|'.join(BUILT_IN_METRICS)}"
        )

    def compute(batch: list[int]) -> list[PromptScore]:
        chosen = [rows[index] for index in batch]
        states = read(pair, chosen)
        if callable(source):
            given = written(states, chosen, source)
        else:
            given = [source[index] for index in batch]
        scores = iter(_score_states(states, given, added, estimator))
        return [
            _prompt_score(
                prompts[index],
                rows[index],
                continuations,
                next(scores),
                next(scores),
                metric=metric,
                unit=added.unit if added is not None else NATS_PER_TOKEN,
                estimator=estimator,
                evidence=evidence_of(states),
            )
            for index, continuations in zip(batch, given, strict=True)
        ]

    return in_flight(rows, compute)


def _score_states(
    states: tuple[Decoding, Decoding],
    given: Sequence[Continuations],
    added: AddedMetric | None,
    estimator: Estimator,
) -> Iterator[list[TokenScores]]:
    """Yield, for each prompt, the scores on the reference's continuations, then the candidate's."""
    groups = [ids for both in given for ids in (both.reference, both.candidate)]
    numbers = [index for index, ids in enumerate(groups) for _ in ids]
    owners, continuations = (
        [number // 2 for number in numbers],
        [id_ for ids in groups for id_ in ids],
    )
    if evidence_of(states) == FULL:
        flat = iter(score_states(states, owners, continuations, added))
    else:
        sources = [source for both in given for source in _sources(both, estimator)]
        flat = iter(estimated(states, owners, sources, continuations))
    for group in groups:
        yield [next(flat) for _ in group]


def _sources(given: Continuations, estimator: Estimator) -> Iterator[Source]:
    """Yield how each of the reference's continuations was sampled, then each of the candidate's."""
    yield from [Source("reference")] * len(given.reference)
    if estimator == "fresh":
        yield from [Source("candidate")] * len(given.candidate)
    elif given.candidate_log_p is None:
        yield from [Source(None)] * len(given.candidate)
    else:
        yield from (Source("candidate", log_p) for log_p in given.candidate_log_p)


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
    evidence: str,
) -> PromptScore:
    prefix, body = row
    if estimator == "fresh":
        log_p = tuple(tuple(scores.candidate_logprobs.tolist()) for scores in on_candidate)
        given = replace(given, candidate_log_p=log_p)
    return PromptScore(
        prompt=prompt,
        prompt_ids=(*prefix, *body.tolist()),
        continuations=given,
        measurement=summarise(
            on_reference,
            on_candidate,
            metric=metric,
            estimator=estimator,
            unit=unit,
            evidence=evidence,
            written_log_p=given.candidate_log_p,
        ),
        same_top_share=same_top_share([*on_reference, *on_candidate]),
        reference_perplexity=_perplexity(on_reference, "reference_logprobs"),
        candidate_perplexity=_perplexity(on_candidate, "candidate_logprobs"),
        log_ratios=tuple(
            (on_candidate[0].candidate_logprobs - on_candidate[0].reference_logprobs).tolist()
        ),
        on_reference=tuple(on_reference),
        on_candidate=tuple(on_candidate),
    )


def _perplexity(scores: Sequence[TokenScores], name: str) -> float:
    return perplexity(torch.cat([getattr(tokens, name) for tokens in scores]))


def _per_token(scores: Sequence[TokenScores], pick: Callable[[TokenScores], Tensor]) -> float:
    values = torch.cat([pick(tokens) for tokens in scores]).double()
    return float(values.sum() / len(values))


def _added(scores: TokenScores) -> Tensor:
    if scores.added is None:
        raise MeasurementError("the scores hold no value of the requested metric")
    return scores.added


def _values(
    on_reference: Sequence[TokenScores], on_candidate: Sequence[TokenScores], metric: MetricName
) -> dict[str, float]:
    """Return the value of every built-in metric, and of `metric`."""
    forward = _per_token(on_reference, lambda scores: scores.forward)
    reverse = _per_token(on_candidate, lambda scores: scores.reverse)
    both = on_reference, on_candidate
    js = sum(_per_token(scores, lambda tokens: tokens.js) for scores in both) / 2
    values = built_in_values(forward, reverse, js)
    if metric not in values:
        values[metric] = sum(_per_token(scores, _added) for scores in both) / 2
    return values


def _of_chosen(
    on_reference: Sequence[TokenScores],
    on_candidate: Sequence[TokenScores],
    written_log_p: Sequence[Sequence[float]] | None,
) -> dict[str, float]:
    """Return the value of every built-in metric, from the chosen tokens' probabilities alone.

    Where a model rules out a token that the other has written there is none that is finite, and
    where nothing is known of how the candidate's tokens were drawn there is that of `forward`.
    """

    def forward_value(function: Callable[[Tensor], Tensor]) -> float:
        return _per_token(on_reference, lambda tokens: function(-_log_ratio(tokens)))

    forward = forward_value(k3)
    if written_log_p is None:
        values = {"forward": forward}
    else:
        drawn = torch.cat(
            [
                importance_weights(tokens.candidate_logprobs, log_p)
                for tokens, log_p in zip(on_candidate, written_log_p, strict=True)
            ]
        )
        log_ratio = torch.cat([_log_ratio(tokens) for tokens in on_candidate])
        reverse, js = (float((drawn * f(log_ratio)).mean()) for f in (k3, jensen_shannon))
        values = built_in_values(forward, reverse, (forward_value(jensen_shannon) + js) / 2)
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _log_ratio(tokens: TokenScores) -> Tensor:
    """Return ln p(reference) - ln p(candidate) of each token: (T,)."""
    return tokens.reference_logprobs.double() - tokens.candidate_logprobs.double()


def _spread(
    on_reference: Sequence[TokenScores], on_candidate: Sequence[TokenScores], metric: MetricName
) -> float | None:
    """Return the standard deviation of the metric over continuations, by the jackknife.

    The i-th of both models are left out together. A value is a ratio of sums, so a long
    continuation weighs more than a short one; pseudo-values heed that (Efron and Stein 1981).
    """
    count = len(on_reference)
    if count < 2 or count != len(on_candidate):
        return None
    whole = _values(on_reference, on_candidate, metric)[metric]
    pseudo_values = []
    for index in range(count):
        ours, theirs = (
            [*each[:index], *each[index + 1 :]] for each in (on_reference, on_candidate)
        )
        pseudo_values.append(count * whole - (count - 1) * _values(ours, theirs, metric)[metric])
    return statistics.stdev(pseudo_values)
