"""Sensitivity of a measurement to settings that change no weight, and to noise of a known size.

Each setting is switched on the reference itself and switched back: no second model is loaded. Noise
is added to its own weights and removed again bit for bit. Does not know how a model is switched
(`pytest_divergence.models.switches`), nor what a measurement is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

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
from pytest_divergence.models.pair import ModelPair, with_weights
from pytest_divergence.scoring.baseline import batched_logits, noise_rows
from pytest_divergence.scoring.divergences import symmetric_kl
from pytest_divergence.scoring.metrics import added_metric
from pytest_divergence.scoring.suite_rows import replay_cases

ATTENTIONS = ("sdpa", "eager")
SIZES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Sizes of injected noise, relative to each weight matrix's standard deviation."""


def attention_of(pair: ModelPair) -> str:
    """Return the attention implementation that the reference runs.

    Raises `MeasurementError` for a reference without weights at hand.
    """
    return with_weights(pair, pair.reference).attention


def nuisances_of(pair: ModelPair) -> list[tuple[NuisanceKind, str]]:
    """Return settings that a user could choose instead of the pair's attention, dtype and device.

    Raises `MeasurementError` for a reference without weights at hand.
    """
    reference, dtype = with_weights(pair, pair.reference), pair.dtype_name
    found: list[tuple[NuisanceKind, str]] = []
    found += [("attention", name) for name in ATTENTIONS if name != reference.attention]
    found += [("dtype", name) for name in DTYPES if name != dtype]
    if reference.device.type != "cpu" and not reference.is_spread:
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
    """Measure the reference under another setting against itself, on given continuations.

    Uses the noise floor's divergence: an added `metric`, or else symmetric KL. A
    setting that this machine or model refuses comes back with the reason. Raises only for lack of
    memory, which may pass, and `MeasurementError` for a reference without weights at hand.
    """
    rows, side = noise_rows(pair, prompts, continuations), with_weights(pair, pair.reference)
    divergence = added_metric(pair, metric) or symmetric_kl
    with torch.no_grad():
        baseline = batched_logits(side, rows)
        try:
            with side.under(kind, setting) as other:
                changed = batched_logits(other, rows)
        except Exception as error:  # libraries and devices refuse in many ways
            if is_out_of_memory(error):
                raise
            return Nuisance(kind=kind, setting=setting, reason=reason_of(error))
        values = [
            float(divergence(before, after.to(before.device)).mean())
            for before, after in zip(baseline, changed, strict=True)
        ]
    return Nuisance(
        kind=kind,
        setting=setting,
        mean=sum(values) / len(values),
        max=max(values),
        num_measurements=len(values),
    )


def injected_kls(
    pair: ModelPair,
    cases: Sequence[Case],
    stored: Mapping[str, StoredTokens],
    *,
    size: float,
    seed: int,
    metric: MetricName,
) -> list[float]:
    """Return the replayed value of each case if the candidate is the reference under noise.

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
        replayed = found[case.id]
        if isinstance(replayed, Exception):
            raise replayed
        values.append(replayed.measurement.value)
    return values


@contextmanager
def planted(pair: ModelPair, *, size: float, seed: int) -> Iterator[ModelPair]:
    """Yield the reference, and as its candidate the same model with noise in its weight matrices.

    `size` is relative to each matrix's standard deviation; the same seed gives the same noise,
    scaled. Beside the pair one copy of the reference's matrices is held, also for an adapter pair,
    whose candidate must not be run inside. At the end the reference is as it was, bit for bit.
    """

    def noisy(name: str, weight: Tensor) -> Tensor:
        return _with_noise(weight, size, row_seed(seed, name))

    with with_weights(pair, pair.reference).under_noise(noisy) as (reference, candidate):
        yield replace(pair, reference=reference, candidate=candidate)


def reason_of(error: Exception) -> str:
    """Return why something could not be measured, in one line for a report."""
    if isinstance(error, NonFiniteLogitsError):
        return "its logits are not numbers (NaN or infinite)"
    if isinstance(error, MeasurementError):
        return str(error)
    first = (str(error).strip().splitlines() or ["no reason given"])[0]
    return f"{type(error).__name__}: {safe_line(first)}"


def _with_noise(weight: Tensor, size: float, seed: int) -> Tensor:
    generator = torch.Generator(weight.device).manual_seed(seed)
    noise = torch.randn(weight.shape, generator=generator, device=weight.device)
    values = weight.float()  # the noise may be finer than the weight's own dtype
    return noise.mul_(size * float(values.std())).add_(values).to(weight.dtype)
