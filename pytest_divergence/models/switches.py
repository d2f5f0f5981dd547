"""A model under another setting, or with other weights, for a while.

Makes a change and undoes it again, bit for bit; does not know what it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_divergence.core.calibration_record import NuisanceKind
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.models.devices import DTYPES
from pytest_divergence.models.output_head import input_device
from pytest_divergence.models.transformers_log import quiet_transformers

Activate = Callable[[], AbstractContextManager[object]]
"""Context entered around each use of a model that serves as several."""
ADAPTER_PARTS = (".lora_", ".modules_to_save.")
WRAPPERS = (".base_layer", ".original_module")
"""Parts that PEFT adds to the names of the weights that it wraps."""


class WeightSwitch:
    """Two sets of values of the same weights: the model's own, and others.

    Only references are exchanged. The model's own values are never computed on, so that switching
    back leaves every bit as it was, and a switch costs next to nothing.
    """

    def __init__(self, others: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
        """Hold the others beside the model's own, which stay in place."""
        self._weights = [(weight, weight.data, other) for weight, other in others]
        self._is_on = False

    def __len__(self) -> int:
        """Number of weights with other values."""
        return len(self._weights)

    @contextmanager
    def own(self) -> Iterator[None]:
        """Use the model's own values within it."""
        self._set(False)
        yield

    @contextmanager
    def others(self) -> Iterator[None]:
        """Use the other values within it."""
        self._set(True)
        yield

    def restore(self) -> None:
        """Put the model's own values back."""
        self._set(False)

    def _set(self, is_on: bool) -> None:
        if self._is_on is not is_on:
            for weight, own, other in self._weights:
                weight.data = other if is_on else own
            self._is_on = is_on


def both(first: Activate, second: Activate) -> Activate:
    """Return a context that enters the first and then the second."""

    @contextmanager
    def entered() -> Iterator[None]:
        with first(), second():
            yield

    return entered


def attention_of(model: PreTrainedModel) -> str:
    """The attention implementation that a model runs."""
    return str(model.config._attn_implementation)


def switched(
    model: PreTrainedModel, kind: NuisanceKind, setting: str
) -> AbstractContextManager[None]:
    """Switch a model to another attention, dtype or device, and back at the end."""
    return SWITCHES[kind](model, setting)


@contextmanager
def _attention(model: Any, setting: str) -> Iterator[None]:
    before = attention_of(model)
    try:
        with quiet_transformers():
            model.set_attn_implementation(setting)
        if attention_of(model) != setting:
            raise MeasurementError(f"a {type(model).__name__} cannot switch its attention")
        yield
    finally:
        with quiet_transformers():
            model.set_attn_implementation(before)


@contextmanager
def _dtype(model: PreTrainedModel, setting: str) -> Iterator[None]:
    """Convert parameters only: models keep what they compute from positions in float32."""
    switch = WeightSwitch(
        (weight, weight.data.to(DTYPES[setting]))
        for weight in model.parameters()
        if weight.is_floating_point()
    )
    try:
        with switch.others():
            yield
    finally:
        switch.restore()


@contextmanager
def _device(model: Any, setting: str) -> Iterator[None]:
    before = input_device(model)
    try:
        model.to(setting)
        yield
    finally:
        model.to(before)


SWITCHES: dict[NuisanceKind, Callable[[Any, str], AbstractContextManager[None]]] = {
    "attention": _attention,
    "dtype": _dtype,
    "device": _device,
}


def noisy_matrices(
    model: nn.Module, noisy: Callable[[str, Tensor], Tensor]
) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Each weight matrix of a model itself, none of an adapter's, and its values with noise.

    `noisy` gets a matrix's name without an adapter, so that the same base gets the same noise
    under one.
    """
    for name, weight in model.named_parameters():
        is_matrix = weight.ndim > 1 and weight.is_floating_point()
        if is_matrix and not any(part in name for part in ADAPTER_PARTS):
            yield weight, noisy(_plain(name), weight.data)


def _plain(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name
