"""Switches adapters on and off, so that one copy of the weights serves both sides of a pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.setting_names import setting

if TYPE_CHECKING:
    from peft import PeftModel

Adapters = tuple[str, ...]
"""Names of the adapters that one side of a pair uses; empty: the base alone."""


class AdapterSwitch:
    """The adapters of one PEFT model: one side's while that side runs, then the other's.

    PEFT's own `disable_adapter()` and `set_adapter()` walk the whole model, tens of milliseconds
    around every forward pass, and turn the adapters' gradients back on. This one touches the
    adapters' layers only, and only where the other side ran last.
    """

    def __init__(self, model: PeftModel, *sides: Adapters) -> None:
        """`sides` are the names of the reference's adapters and of the candidate's."""
        layers = _adapter_layers(model)
        if not layers:
            # Virtual tokens before the prompt, say: nothing would differ, and all would pass.
            raise ModelLoadError(
                "the adapter changes no layer of the model, so the two sides cannot be told apart "
                f"here; work it into a full model and give that as {setting('model_2')}"
            )
        for name in {name for side in sides for name in side}:
            if not any(name in names for names in layers.values()):
                known = ", ".join(sorted({name for names in layers.values() for name in names}))
                raise ModelLoadError(
                    f"the model has no adapter {name!r} on a layer; it has {known}"
                )
        self._states = [
            [(layer, [name for name in side if name in names]) for layer, names in layers.items()]
            for side in sides
        ]
        self._is_on: int | None = None

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the model is the reference."""
        self._set(0)
        yield

    @contextmanager
    def candidate(self) -> Iterator[None]:
        """Inside, the model is the candidate."""
        self._set(1)
        yield

    def _set(self, index: int) -> None:
        if self._is_on != index:
            for layer, names in self._states[index]:
                layer._disable_adapters = not names
                if names:
                    layer._active_adapter = names
            self._is_on = index


def active_adapters(model: PeftModel) -> Adapters:
    """The names that a PEFT model runs with as it is."""
    active: Sequence[str] = model.active_adapters
    return tuple(active)


def _adapter_layers(model: PeftModel) -> dict[Any, Sequence[str]]:
    """Each layer that some adapter changes, with the names of those that do."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper  # whole modules and tokens, retrained

    found: dict[Any, Sequence[str]] = {}
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            found[module] = module._all_available_adapter_names()
        elif isinstance(module, AuxiliaryTrainingWrapper):
            found[module] = sorted(module._adapters)
    return found
