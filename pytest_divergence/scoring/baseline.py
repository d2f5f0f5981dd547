"""What a pair reads when nothing is wrong: noise floor, typical shift, and the bound from both.

Does not know which prompts are ordinary, nor which bound is asserted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
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
"""Times three nuisances: at least 59, for the maximum to cover 95 % at 95 % confidence."""
SHIFT_FACTOR = 1.5
MIN_CONTROLS_FOR_P99 = 100


def measure_noise_floor(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    continuations: Sequence[Sequence[int]],
    *,
    metric: MetricName = "symmetric",
) -> NoiseFloor:
    """The largest divergence of the reference from itself, in nats and in an added `metric`.

    Each of the first 20 prompts' continuations, given as ids, is read four ways: in a batch, alone,
    without the shared chat prefix, and token by token through the cache; the first is compared
    with the others. Never below what float32 arithmetic leaves.
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
    """What noise is measured on: the first 20 prompts, each with a continuation given as ids."""
    if not prompts:
        raise MeasurementError("the noise floor needs at least one prompt")
    return [
        ScoringRow(prefix, body, tuple(given))
        for (prefix, body), given in zip(pair.prompt_rows(prompts), continuations, strict=True)
    ][:NUM_NOISE_PROMPTS]


def batched_logits(side: Side, rows: Sequence[ScoringRow]) -> list[Tensor]:
    """Logits of each row's continuation, read in a batch with others: (T, V) a row."""
    return [logits for batch in _batches(rows) for logits in continuation_logits(side, batch)]


def typical_shift(values: Sequence[float]) -> TypicalShift:
    """Summary of the controls' divergences, in the metric's unit."""
    if not values:
        raise MeasurementError("the typical shift needs at least one control")
    return TypicalShift(
        mean=float(np.mean(values)),
        p99=float(np.quantile(values, 0.99)),
        max=max(values),
        num_controls=len(values),
    )


def automatic_bound(floor: float | None, shift: TypicalShift) -> Bound:
    """The larger of 3 x noise floor and 1.5 x the controls' 99th percentile, in one metric's unit.

    With fewer than 100 controls the 99th percentile is not to be had, and the maximum stands in.
    """
    is_many = shift.num_controls >= MIN_CONTROLS_FOR_P99
    typical = shift.p99 if is_many else shift.max
    statistic = "99th percentile" if is_many else "maximum"
    parts = {} if floor is None else {"3 x noise floor": FLOOR_FACTOR * floor}
    parts[f"1.5 x {statistic} of controls"] = SHIFT_FACTOR * typical
    largest = max(parts, key=lambda name: parts[name])
    label = f"auto: {largest} ({shift.num_controls} controls)"
    return Bound(value=parts[largest], parts=parts, label=label)


def absolute_bound(max_kl: float) -> Bound:
    """A bound that was asked for, in the metric's unit."""
    return Bound(value=max_kl, parts={"max_kl": max_kl}, label=f"absolute: {setting('max_kl')}")


def nll_limit(control_nlls: Sequence[float]) -> float:
    """The controls' 99.5th percentile, nats per token; less likely prompts are off distribution."""
    return float(np.quantile(control_nlls, 0.995))


def _batches(rows: Sequence[ScoringRow], size: int = 10) -> list[list[ScoringRow]]:
    """Small enough that most rows are padded by others of another length."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def _token_by_token(side: Side, batch: Sequence[ScoringRow]) -> list[Tensor]:
    """Logits of each row's continuation as decoding sees them: (T, V) a row."""
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
