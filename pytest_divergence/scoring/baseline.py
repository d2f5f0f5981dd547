"""Baseline of a pair: its noise floor, its typical shift, and the bound from both.

Does not know which prompts are ordinary, nor which bound is asserted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.provenance import AddedNoise, Bound, NoiseFloor, TypicalShift
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.verdicts import ARITHMETIC_FLOOR, FLOOR_FACTOR
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Side
from pytest_divergence.scoring.divergences import symmetric_kl
from pytest_divergence.scoring.metrics import added_metric
from pytest_divergence.scoring.teacher_forcing import ScoringRow, continuation_logits, whole

NUM_NOISE_PROMPTS = 20
"""Times three nuisances, at least 59: so the maximum covers 95 % with 95 % confidence."""
LEVEL = 0.05
"""Nominal share of searches in which an ordinary prompt exceeds the automatic bound."""


def measure_noise_floor(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    continuations: Sequence[Sequence[int]],
    *,
    metric: MetricName = "symmetric",
) -> NoiseFloor:
    """Return the largest divergence of the reference from itself, in nats and an added `metric`.

    Each of the first 20 prompts' continuations, given as ids, is computed four ways: in a batch,
    alone, without the shared chat prefix, and token by token through the cache; the first is
    compared with the others. Never below the floor of float32 arithmetic.
    """
    rows = noise_rows(pair, prompts, continuations)
    side, added = pair.reference, added_metric(pair, metric)
    values, added_values = [], []
    with torch.no_grad():
        together = batched_logits(side, rows)
        by_cache = [logits for batch in _batches(rows) for logits in _token_by_token(side, batch)]
        for row, baseline, cached in zip(rows, together, by_cache, strict=True):
            alone = continuation_logits(side, [row])[0]
            unshared = continuation_logits(side, [whole(row)])[0]
            for other in (alone, unshared, cached):
                values.append(float(symmetric_kl(baseline, other).mean()))
                if added is not None:
                    added_values.append(float(added(baseline, other).mean()))
    return NoiseFloor(
        value=max(ARITHMETIC_FLOOR, *values),
        num_measurements=len(values),
        added=None
        if added is None
        else AddedNoise(
            metric=added.name, unit=added.unit, value=max(ARITHMETIC_FLOOR, *added_values)
        ),
    )


def noise_rows(
    pair: ModelPair, prompts: Sequence[Prompt], continuations: Sequence[Sequence[int]]
) -> list[ScoringRow]:
    """Return the rows to measure noise on: the first 20 prompts with given continuation ids."""
    if not prompts:
        raise MeasurementError("the noise floor needs at least one prompt")
    return [
        ScoringRow(prefix, body, tuple(given))
        for (prefix, body), given in zip(pair.prompt_rows(prompts), continuations, strict=True)
    ][:NUM_NOISE_PROMPTS]


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


def automatic_bound(floor: float | None, values: Sequence[float], num_prompts: int) -> Bound:
    """Return the largest of 3 x noise floor, the largest control, and their prediction limit.

    `values` are the controls' divergences, `num_prompts` those that a search has scored; all are in
    one metric's unit.
    """
    parts = {} if floor is None else {"3 x noise floor": FLOOR_FACTOR * floor}
    parts[f"largest of {len(values)} controls"] = max(values)
    limit = prediction_limit(
        [max(value, floor or ARITHMETIC_FLOOR) for value in values], num_prompts
    )
    parts[f"nominal {LEVEL:.0%} limit for {num_prompts} prompts".replace("%", " %")] = limit
    largest = max(parts, key=lambda name: parts[name])
    return Bound(value=parts[largest], parts=parts, label=f"auto: {largest}")


def prediction_limit(values: Sequence[float], num_new: int, level: float = LEVEL) -> float:
    """Return the limit that one of `num_new` further values exceeds with probability `level`.

    Values are positive; their logs are taken to be normal above the median m. The limit is exp(m +
    k s), where s is the root mean square distance of the larger half from m, so that small values
    say nothing of large ones, and k is Student's t quantile for n/2 - 1 degrees of freedom at 1 -
    level / num_new, times sqrt(1 + pi / 2n) for the error of the median (after the prediction limit
    of Krishnamoorthy and Mathew 2009, chapter 2; Bonferroni). Real logs are not normal, so the
    level is nominal.
    """
    logs = np.log(values)
    median = float(np.median(logs))
    above = logs[logs >= median] - median
    spread = math.sqrt(float(np.mean(above**2)))
    half = max(2, len(values) // 2 - 1)
    quantile = float(stats.t.ppf(1 - level / num_new, half))
    return math.exp(median + quantile * math.sqrt(1 + math.pi / (2 * len(values))) * spread)


def absolute_bound(max_kl: float) -> Bound:
    """Return a bound that the user gave, in the metric's unit."""
    return Bound(value=max_kl, parts={"max_kl": max_kl}, label=f"absolute: {setting('max_kl')}")


def nll_limit(control_nlls: Sequence[float]) -> float:
    """Return the controls' 99.5th percentile, nats per token: the limit of natural prompts."""
    return float(np.quantile(control_nlls, 0.995))


def _batches(rows: Sequence[ScoringRow], size: int = 10) -> list[list[ScoringRow]]:
    """Split rows into batches so small that most rows are padded to another row's length."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


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
