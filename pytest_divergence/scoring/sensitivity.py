"""What a measurement tells apart: settings that change no weight, and noise of a known size.

Nuisances are switched on the reference itself and switched back, noise is planted in its weights:
no second model is loaded. Does not know what a reading is compared with.

Each setting is switched on the reference itself and switched back: no second model is loaded. Noise
is planted in its own weights and taken out again bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pytest_divergence.core.calibration_record import Nuisance, NuisanceKind
from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import MeasurementError, NonFiniteLogitsError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.tokens import StoredTokens
from pytest_divergence.models.batching import is_out_of_memory
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.devices import DTYPES
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import ModelSide
from pytest_divergence.models.transformers_log import quiet_transformers
from pytest_divergence.models.weight_switch import WeightSwitch
from pytest_divergence.scoring.baseline import batched_logits, noise_rows
from pytest_divergence.scoring.divergences import symmetric_kl
from pytest_divergence.scoring.metrics import added_metric
from pytest_divergence.scoring.suite_rows import replay_cases

ATTENTIONS = ("sdpa", "eager")
SIZES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Of the noise that is planted, relative to each weight matrix's standard deviation."""
ADAPTER_PARTS = (".lora_", ".modules_to_save.")
WRAPPERS = (".base_layer", ".original_module")
"""What peft puts into the names of the weights that it wraps."""


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
    symmetric KL. A setting that this machine or model refuses comes back with the reason; only lack
    of memory is raised, for it may pass.
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
            return Nuisance(kind=kind, setting=setting, reason=reason_of(error))
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


def planted_kls(
    pair: ModelPair,
    cases: Sequence[Case],
    stored: Mapping[str, StoredTokens],
    *,
    size: float,
    seed: int,
    metric: MetricName,
) -> list[float]:
    """What a replay of the cases reads where the candidate is the reference under noise.

    Nats per token, one a case, on its stored continuations, as any gate would measure them.
    """
    with planted(pair, size=size, seed=seed) as changed:
        found = replay_cases(
            changed,
            cases,
            stored,
            metric_of=lambda _: metric,
            num_continuations=1,
            max_new_tokens=1,
            seed=seed,
        )
    values = []
    for case in cases:
        one = found[case.id]
        if isinstance(one, Exception):
            raise one
        values.append(one.measurement.value)
    return values


@contextmanager
def planted(pair: ModelPair, *, size: float, seed: int) -> Iterator[ModelPair]:
    """The reference, and as its candidate the same model with noise in its weight matrices.

    `size` is relative to each matrix's standard deviation; the same seed gives the same noise,
    scaled. Beside the pair one copy of the reference's matrices is held, also for an adapter pair,
    whose candidate must not be run inside. At the end the reference is as it was, bit for bit.
    """
    switch = WeightSwitch(_noisy(pair.reference.model, size, seed))
    if not len(switch):
        raise MeasurementError(
            "the reference has no weight matrix in floating point (it is quantised), so no noise "
            "can be planted in it"
        )
    reference, candidate = switch.sides(pair.reference)
    try:
        yield replace(pair, reference=reference, candidate=candidate)
    finally:
        switch.restore()


def reason_of(error: Exception) -> str:
    """Why something could not be measured, in one line for a report."""
    if isinstance(error, NonFiniteLogitsError):
        return "its logits are not numbers (NaN or infinite)"
    if isinstance(error, MeasurementError):
        return str(error)
    first = (str(error).strip().splitlines() or ["no reason given"])[0]
    return f"{type(error).__name__}: {safe_line(first)}"


def _without_prefixes(side: ModelSide) -> ModelSide:
    """The model as one that has not yet read any chat prefix."""
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


def _noisy(model: nn.Module, size: float, seed: int) -> Iterator[tuple[nn.Parameter, Tensor]]:
    for name, weight in model.named_parameters():
        is_matrix = weight.ndim > 1 and weight.is_floating_point()
        if is_matrix and not any(part in name for part in ADAPTER_PARTS):
            yield weight, _with_noise(weight.data, size, row_seed(seed, _plain(name)))


def _plain(name: str) -> str:
    """The name without an adapter, so that the same base gets the same noise under one."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _with_noise(weight: Tensor, size: float, seed: int) -> Tensor:
    generator = torch.Generator(weight.device).manual_seed(seed)
    noise = torch.randn(weight.shape, generator=generator, device=weight.device)
    values = weight.float()  # the noise may be finer than the weight's own dtype
    return noise.mul_(size * float(values.std())).add_(values).to(weight.dtype)
