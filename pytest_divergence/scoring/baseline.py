"""Baseline of a pair: its noise floor, its typical shift, and the bound from both.

Does not know which prompts are ordinary, nor which bound is asserted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from pytest_divergence.core.cases import NATS_PER_TOKEN
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.provenance import AddedNoise, Bound, NoiseFloor, TypicalShift
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.verdicts import ARITHMETIC_FLOOR, FLOOR_FACTOR
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.endpoints.served_side import ServedSide
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Side
from pytest_divergence.scoring.divergences import symmetric_kl
from pytest_divergence.scoring.estimates import divergence_of_readings
from pytest_divergence.scoring.metrics import added_metric
from pytest_divergence.scoring.teacher_forcing import (
    ScoringRow,
    continuation_logits,
    whole,
    with_one_prefix,
)

NUM_READINGS = 59
"""Readings of the noise floor, on different prompts: the largest of so many is above 95 % of all
readings with 95 % confidence."""
WAYS = ("batch", "alone", "unshared")
"""Ways in which a continuation is computed at once."""
NUM_WAYS = 2 * len(WAYS)
NOISE_TOKENS = 6
"""Tokens of a continuation that are read: more cost more and lower the mean's largest value."""
LEVEL = 0.05
"""Nominal share of searches in which an ordinary prompt exceeds the automatic bound."""
CEILING = math.log(100)
"""Nats a token above which no automatic bound of a KL divergence lies: there a model is, at the
average token, a hundred times as sure as the other. A ruined model would raise its own bar."""


class NoiseReadings(NamedTuple):
    """Divergences of a model from itself, in nats, and in an added metric if that is asserted."""

    values: list[float]
    added: list[float]


def measure_noise_floor(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    continuations: Sequence[Sequence[int]],
    *,
    metric: MetricName = "symmetric",
) -> NoiseFloor:
    """Return the largest of 59 readings of a model against itself, in nats and an added `metric`.

    Fewer than 59 prompts are read several times, up to six. Raises `MeasurementError` for none.
    """
    added = added_metric(pair, metric)
    readings = noise_readings(pair, prompts, continuations, NUM_READINGS, metric)
    return noise_floor([readings], metric, NATS_PER_TOKEN if added is None else added.unit)


def noise_floor(readings: Sequence[NoiseReadings], metric: MetricName, unit: str) -> NoiseFloor:
    """Return the largest of some readings, never below the floor of float32 arithmetic.

    `unit` is that of `metric`. Raises `MeasurementError` if nothing was read.
    """
    values = [value for each in readings for value in each.values]
    found = [value for each in readings for value in each.added]
    if not values:
        raise MeasurementError("the noise floor needs at least one prompt")
    return NoiseFloor(
        value=max(ARITHMETIC_FLOOR, *values),
        num_measurements=len(values),
        added=AddedNoise(metric=metric, unit=unit, value=max(ARITHMETIC_FLOOR, *found))
        if found
        else None,
    )


def noise_readings(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    continuations: Sequence[Sequence[int]],
    num_readings: int,
    metric: MetricName,
) -> NoiseReadings:
    """Return how far a model is from itself on given continuations, the prompts in turn.

    One of the two models computes the first 6 tokens of a prompt's continuation as decoding does,
    token by token through the cache, and once more at once: in a batch, alone, or alone without the
    shared chat prefix. Model and way are drawn by the prompt; another reading of the same prompt
    takes the next. A server is asked about the tokens in order, and from the last.
    """
    if not prompts:
        return NoiseReadings([], [])
    rows = noise_rows(pair, prompts, continuations)
    chosen: defaultdict[tuple[int, str], list[ScoringRow]] = defaultdict(list)
    for number in range(min(num_readings, NUM_WAYS * len(rows))):
        row = rows[number % len(rows)]
        draw = row_seed("noise", row.body.tolist(), row.continuation) + number // len(rows)
        chosen[draw % 2, WAYS[draw // 2 % len(WAYS)]].append(row)
    added, found = added_metric(pair, metric), NoiseReadings([], [])
    with torch.no_grad():
        for (index, way), some in sorted(chosen.items(), key=lambda item: item[0]):
            side = pair.sides[index]
            if isinstance(side, ServedSide):
                found.values.extend(_read_twice(side, some))
                continue
            decoded = [
                logits for batch in _batches(some) for logits in _token_by_token(side, batch)
            ]
            for first, second in zip(decoded, _at_once(side, some, way), strict=True):
                found.values.append(float(symmetric_kl(first, second).mean()))
                if added is not None:
                    found.added.append(float(added(first, second).mean()))
    return found


def noise_rows(
    pair: ModelPair, prompts: Sequence[Prompt], continuations: Sequence[Sequence[int]]
) -> list[ScoringRow]:
    """Return the rows to measure noise on: prompts with the first 6 of given continuation ids."""
    return [
        ScoringRow(prefix, body, tuple(given[:NOISE_TOKENS]))
        for (prefix, body), given in zip(pair.prompt_rows(prompts), continuations, strict=True)
    ]


def batched_logits(side: Side, rows: Sequence[ScoringRow]) -> list[Tensor]:
    """Return logits of each row's continuation, in a batch with others: (T, V) a row."""
    return [logits for batch in _batches(rows) for logits in continuation_logits(side, batch)]


def typical_shift(values: Sequence[float]) -> TypicalShift:
    """Return a summary of the controls' divergences, in the metric's unit."""
    if not values:
        raise MeasurementError("the typical shift needs at least one control")
    return TypicalShift(
        mean=float(np.mean(values)),
        p99=float(np.quantile(values, 0.99)),
        max=max(values),
        num_controls=len(values),
    )


def automatic_bound(
    floor: float | None,
    values: Sequence[float],
    num_prompts: int,
    *,
    ceiling: float = math.inf,
) -> Bound:
    """Return the largest of 3 x noise floor, the largest control, and their prediction limit.

    `values` are the controls' divergences, `num_prompts` those that a search has scored; all are in
    one metric's unit. No bound is above the `ceiling`.
    """
    parts = {} if floor is None else {"3 x noise floor": FLOOR_FACTOR * floor}
    parts[f"largest of {len(values)} controls"] = max(values)
    limit = prediction_limit(
        [max(value, floor or ARITHMETIC_FLOOR) for value in values], num_prompts
    )
    parts[f"nominal {LEVEL:.0%} limit for {num_prompts} prompts"] = limit
    deciding = max(parts, key=lambda name: parts[name])
    if parts[deciding] > ceiling:
        deciding = f"at most {ceiling:.2f}"
        parts[deciding] = ceiling
    return Bound(value=parts[deciding], parts=parts, label=f"auto: {deciding}")


def prediction_limit(values: Sequence[float], num_new: int, level: float = LEVEL) -> float:
    """Return the limit that one of `num_new` further values exceeds with probability `level`.

    Values are positive; their logs are taken to be normal above a point c, so that small values say
    nothing of large ones: the median or, where more than half of the values are equal to the
    smallest, that one. With q the share of values above c and z the normal quantile at 1 - q, their
    mean square distance from c estimates s^2 (1 - z phi(z) / q + z^2), and m = c - z s. The limit
    is exp(m + k s), where k is Student's t quantile for n/2 - 1 degrees of freedom at 1 - level /
    num_new, times sqrt(1 + q (1 - q) / (n phi(z)^2)) for the error of c (after the prediction
    limit of Krishnamoorthy and Mathew 2009, chapter 2; Bonferroni). Real logs are not normal, so
    the level is nominal.
    """
    logs, size = np.sort(np.log(values)), len(values)
    num_smallest = int(np.sum(logs == logs[0]))
    is_censored = num_smallest > size // 2
    above = logs[max(num_smallest, size // 2) :]
    if not above.size:
        return float(values[0])
    share = len(above) / size if is_censored else 0.5
    start = float(logs[0] if is_censored else np.median(logs))
    z = float(stats.norm.isf(share))
    density = float(stats.norm.pdf(z))
    spread = math.sqrt(float(np.mean((above - start) ** 2)) / (1 - z * density / share + z**2))
    quantile = float(stats.t.ppf(1 - level / num_new, max(2, size // 2 - 1)))
    error = share * (1 - share) / (size * density**2)
    return math.exp(start - z * spread + quantile * math.sqrt(1 + error) * spread)


def absolute_bound(max_kl: float) -> Bound:
    """Return a bound that the user gave, in the metric's unit."""
    return Bound(value=max_kl, parts={"max_kl": max_kl}, label=f"absolute: {setting('max_kl')}")


def nll_limit(control_nlls: Sequence[float]) -> float:
    """Return the controls' 99.5th percentile, nats per token: the limit of natural prompts."""
    return float(np.quantile(control_nlls, 0.995))


def _read_twice(side: ServedSide, rows: Sequence[ScoringRow]) -> list[float]:
    """Return how far a server is from itself: asked in order, and from the end of each row."""
    given = with_one_prefix(rows)
    state = side.start([row.body for row in given], prefix=given[0].prefix)
    ids = [row.continuation for row in given]
    readings = zip(state.told(ids), state.told(ids, is_reversed=True), strict=True)
    return [divergence_of_readings(*both) for both in readings]


def _batches(rows: Sequence[ScoringRow], size: int = 10) -> list[list[ScoringRow]]:
    """Split rows into batches so small that most rows are padded to another row's length."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def _at_once(side: Side, rows: Sequence[ScoringRow], way: str) -> list[Tensor]:
    """Return logits of each row's continuation from one forward pass: (T, V) a row."""
    if way == "batch":
        return batched_logits(side, rows)
    read = rows if way == "alone" else map(whole, rows)
    return [continuation_logits(side, [row])[0] for row in read]


def _token_by_token(side: Side, batch: Sequence[ScoringRow]) -> list[Tensor]:
    """Return logits of each row's continuation as decoding sees them: (T, V) a row."""
    prefixes = {row.prefix for row in batch}
    rows = list(batch) if len(prefixes) == 1 else [whole(row) for row in batch]
    state = side.start([row.body for row in rows], prefix=rows[0].prefix)
    steps = [state.logits]
    for step in range(max(len(row.continuation) for row in rows) - 1):
        # A row that has ended is fed its last token again; nothing after its end is read.
        fed = [row.continuation[min(step, len(row.continuation) - 1)] for row in rows]
        state.step(torch.tensor(fed, device=side.device))
        steps.append(state.logits)
    logits = torch.stack(steps, dim=1)
    return [logits[index, : len(row.continuation)] for index, row in enumerate(rows)]
