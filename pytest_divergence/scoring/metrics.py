"""The one place where metrics are known by name: the built-in ones, and those added to a pair.

Does not know where added metrics come from, nor how a prompt's number is made of its positions
(`pytest_divergence.scoring.scorer`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_divergence.core.cases import NATS_PER_TOKEN
from pytest_divergence.core.errors import MeasurementError, SettingsError, one_of
from pytest_divergence.core.settings import MetricName
from pytest_divergence.models.pair import Metric, ModelPair
from pytest_divergence.scoring.divergences import forward_kl, js, reverse_kl, symmetric_kl

DIVERGENCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "symmetric": symmetric_kl,
    "forward": forward_kl,
    "reverse": reverse_kl,
    "js": js,
}
"""The built-in metrics; every measurement holds all of them."""


def built_in_metric(metric: MetricName) -> MetricName:
    """Return the metric if it is built in, else `symmetric`.

    An added one need not have a gradient, nor be of use on other logits than the pair's.
    """
    return metric if metric in DIVERGENCES else "symmetric"


@dataclass(frozen=True)
class AddedMetric:
    """A metric that a plugin or a user added, with its name; its values are checked."""

    name: str
    metric: Metric

    @property
    def unit(self) -> str:
        """Unit of its numbers, per token."""
        return str(getattr(self.metric, "unit", NATS_PER_TOKEN))

    def __call__(self, reference_logits: Tensor, candidate_logits: Tensor) -> Tensor:
        """Return the divergence at each position: (T, vocab) -> (T,), on the CPU, in float32.

        Raises `MeasurementError` naming the metric where it has no finite number for each.
        """
        logits = [
            side if side.dtype == torch.float64 else side.float()
            for side in (reference_logits, candidate_logits)
        ]
        try:
            values = self.metric.measure(*logits)
        except Exception as error:
            raise MeasurementError(
                f"the metric {self.name!r} raised {type(error).__name__}: {error}"
            ) from error
        wanted = reference_logits.shape[:-1]
        if not isinstance(values, Tensor) or values.shape != wanted:
            given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise MeasurementError(
                f"the metric {self.name!r} returned {given} for logits of shape "
                f"{tuple(reference_logits.shape)}; it must return a tensor of shape {tuple(wanted)}"
            )
        if not torch.isfinite(values).all():
            raise MeasurementError(
                f"the metric {self.name!r} returned values that are not finite numbers; nothing "
                "was measured"
            )
        return values.float().cpu()


def built_in_values(forward: float, reverse: float, js: float) -> dict[str, float]:
    """Return every built-in metric's value from the three measured ones, in their unit."""
    return {"symmetric": (forward + reverse) / 2, "forward": forward, "reverse": reverse, "js": js}


def added_metric(pair: ModelPair, name: str) -> AddedMetric | None:
    """Return the metric that was added to the pair by that name; None for a built-in one.

    Raises `SettingsError` for a name that no metric has.
    """
    if name in DIVERGENCES:
        return None
    if name not in pair.metrics:
        raise SettingsError(f"metric={name!r}: {one_of(name, [*DIVERGENCES, *pair.metrics])}")
    return AddedMetric(name, pair.metrics[name])
