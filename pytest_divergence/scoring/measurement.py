"""From per-token divergences to the one number of a prompt.

Total nats over number of positions, end of turn included. `forward` is read on the reference's own
continuations and `reverse` on the candidate's, so each is an estimate of the divergence between
the two models' distributions over texts, per token, in its direction.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from pytest_divergence.core.cases import NATS_PER_TOKEN, Measurement
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.settings import MetricName
from pytest_divergence.scoring.metrics import DIVERGENCES
from pytest_divergence.scoring.tokens import TokenScores

Estimator = Literal["fresh", "stored"]


def summarise(
    on_reference: Sequence[TokenScores],
    on_candidate: Sequence[TokenScores],
    *,
    metric: MetricName,
    estimator: Estimator = "fresh",
    unit: str = NATS_PER_TOKEN,
) -> Measurement:
    """One prompt's measurement from the scores of both models' continuations.

    `unit` is the metric's.

    Raises `MeasurementError` where a model has no continuation or a value is not finite.
    """
    if not on_reference or not on_candidate:
        raise MeasurementError("a measurement needs a continuation of each model; there is none")
    forward = _per_token(on_reference, lambda scores: scores.forward)
    reverse = _per_token(on_candidate, lambda scores: scores.reverse)
    both = on_reference, on_candidate
    js = sum(_per_token(scores, lambda one: one.js) for scores in both) / 2
    values = {
        "symmetric": (forward + reverse) / 2,
        "forward": forward,
        "reverse": reverse,
        "js": js,
    }
    if metric not in values:
        values[metric] = sum(_per_token(scores, _added) for scores in both) / 2
    largest = max(
        *(float(scores.forward.max()) for scores in on_reference),
        *(float(scores.reverse.max()) for scores in on_candidate),
    )
    if not all(map(math.isfinite, (*values.values(), largest))):
        raise MeasurementError(f"the divergence is not a finite number: {values}")
    return Measurement(
        value=values[metric],
        metric=metric,
        forward=forward,
        reverse=reverse,
        js=js,
        sd=_spread(*both, metric),
        max_token=largest,
        num_tokens=sum(len(scores.forward) for scores in (*on_reference, *on_candidate)),
        num_continuations=len(on_reference),
        estimator=estimator,
        unit=unit,
    )


def same_top_share(scores: Sequence[TokenScores]) -> float:
    """Share of positions at which both models would choose the same token."""
    return float(torch.cat([one.same_top for one in scores]).mean())


def perplexity(logprobs: Tensor) -> float:
    """exp of the mean negative log-probability: (T,) -> scalar."""
    return math.exp(-float(logprobs.double().mean()))


def _per_token(scores: Sequence[TokenScores], pick: Callable[[TokenScores], Tensor]) -> float:
    values = torch.cat([pick(one) for one in scores]).double()
    return float(values.sum() / len(values))


def _added(scores: TokenScores) -> Tensor:
    if scores.added is None:
        raise MeasurementError("the scores hold no value of the metric that is asked for")
    return scores.added


def _spread(
    on_reference: Sequence[TokenScores], on_candidate: Sequence[TokenScores], metric: MetricName
) -> float | None:
    """Standard deviation over continuations, the i-th of both models taken together."""
    if len(on_reference) < 2 or len(on_reference) != len(on_candidate):
        return None

    def mean(ours: TokenScores, theirs: TokenScores) -> float:
        is_built_in = metric in DIVERGENCES
        sides = (ours.forward, theirs.reverse) if is_built_in else (_added(ours), _added(theirs))
        return sum(float(side.mean()) for side in sides) / 2

    return statistics.stdev(map(mean, on_reference, on_candidate))
