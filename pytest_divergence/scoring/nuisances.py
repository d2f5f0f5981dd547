"""Settings that a user may choose and that change no weight: what each alone makes a model read.

Each is switched on the reference itself and switched back: no second model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from pytest_divergence.core.calibration import Nuisance, NuisanceKind
from pytest_divergence.core.errors import MeasurementError, NonFiniteLogitsError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.settings import MetricName
from pytest_divergence.models.batching import is_out_of_memory
from pytest_divergence.models.chat import Prompt
from pytest_divergence.models.devices import DTYPES
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.quiet import quiet_transformers
from pytest_divergence.models.side import ModelSide
from pytest_divergence.models.weights import WeightSwitch
from pytest_divergence.scoring.calibration import batched_logits, noise_rows
from pytest_divergence.scoring.divergences import symmetric_kl
from pytest_divergence.scoring.metrics import added_metric

ATTENTIONS = ("sdpa", "eager")


def attention_of(side: ModelSide) -> str:
    """The attention implementation that a model runs."""
    return str(side.model.config._attn_implementation)


def nuisances_of(pair: ModelPair) -> list[tuple[NuisanceKind, str]]:
    """What a user could choose instead of the pair's attention, dtype and device."""
    attention, dtype = attention_of(pair.reference), str(pair.dtype).split(".")[-1]
    found: list[tuple[NuisanceKind, str]] = []
    found += [("attention", one) for one in ATTENTIONS if one != attention]
    found += [("dtype", one) for one in DTYPES if one != dtype]
    is_spread = any(hasattr(side.model, "hf_device_map") for side in pair.sides)
    if pair.device.type != "cpu" and not is_spread:
        found.append(("device", "cpu"))
    return found


def measure_nuisance(
    pair: ModelPair,
    kind: NuisanceKind,
    setting: str,
    prompts: Sequence[Prompt],
    continuations: Sequence[Sequence[int]],
    *,
    metric: MetricName = "symmetric",
) -> Nuisance:
    """The reference under another setting against itself as it is, on given continuations.

    The same prompts and the same divergence as the noise floor's: an added `metric`, or else
    symmetric KL. A setting that this machine or
    model refuses comes back with the reason; only lack of memory is raised, for it may pass.
    """
    rows, side = noise_rows(pair, prompts, continuations), pair.reference
    divergence = added_metric(pair, metric) or symmetric_kl
    with torch.no_grad():
        baseline = batched_logits(side, rows)
        try:
            with CHANGES[kind](side, setting) as other:
                changed = batched_logits(other, rows)
        except Exception as error:  # libraries and devices refuse in many ways
            if is_out_of_memory(error):
                raise
            return Nuisance(kind=kind, setting=setting, reason=_reason(error))
        values = [
            float(divergence(ours, theirs.to(ours.device)).mean())
            for ours, theirs in zip(baseline, changed, strict=True)
        ]
    return Nuisance(
        kind=kind,
        setting=setting,
        mean=sum(values) / len(values),
        max=max(values),
        num_measurements=len(values),
    )


def _reason(error: Exception) -> str:
    if isinstance(error, NonFiniteLogitsError):
        return "its logits are not numbers (NaN or infinite)"
    if isinstance(error, MeasurementError):
        return str(error)
    first = (str(error).strip().splitlines() or ["no reason given"])[0]
    return f"{type(error).__name__}: {safe_line(first)}"


def _without_prefixes(side: ModelSide) -> ModelSide:
    """The same model, which has not yet read any chat prefix."""
    return ModelSide(side.role, side.model, side.activate, side.meter)


@contextmanager
def _attention(side: ModelSide, setting: str) -> Iterator[ModelSide]:
    model: Any = side.model
    before = attention_of(side)
    try:
        with quiet_transformers():
            model.set_attn_implementation(setting)
        if attention_of(side) != setting:
            raise MeasurementError(f"a {type(model).__name__} cannot switch its attention")
        yield _without_prefixes(side)
    finally:
        with quiet_transformers():
            model.set_attn_implementation(before)


@contextmanager
def _dtype(side: ModelSide, setting: str) -> Iterator[ModelSide]:
    """Parameters only: models keep what they compute of positions in float32, however loaded."""
    switch = WeightSwitch(
        (weight, weight.data.to(DTYPES[setting]))
        for weight in side.model.parameters()
        if weight.is_floating_point()
    )
    try:
        yield switch.sides(side)[1]
    finally:
        switch.restore()


@contextmanager
def _device(side: ModelSide, setting: str) -> Iterator[ModelSide]:
    model: Any = side.model
    before = side.device
    try:
        model.to(setting)
        yield _without_prefixes(side)
    finally:
        model.to(before)


CHANGES: dict[NuisanceKind, Callable[[ModelSide, str], AbstractContextManager[ModelSide]]] = {
    "attention": _attention,
    "dtype": _dtype,
    "device": _device,
}
