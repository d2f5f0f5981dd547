"""The positive control: damage of a known size, which a gate must see.

Noise is planted in the reference's own weights and taken out again bit for bit. Knows nothing of
bounds: what it reads is compared with one elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.tokens import StoredTokens
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.weights import WeightSwitch
from pytest_divergence.scoring.replay import replay_cases

SIZES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Of the noise that is planted, relative to each weight matrix's standard deviation."""
ADAPTER_PARTS = (".lora_", ".modules_to_save.")
WRAPPERS = (".base_layer", ".original_module")
"""What peft puts into the names of the weights that it wraps."""


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
