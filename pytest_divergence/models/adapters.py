"""Switches an adapter on and off, so that one copy of the weights serves both sides of a pair."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_divergence.core.errors import ModelLoadError

if TYPE_CHECKING:
    from peft import PeftModel


class AdapterSwitch:
    """The adapter of one PEFT model: on for the candidate, off for the reference.

    PEFT's own `disable_adapter()` walks the whole model on entry and exit, tens of milliseconds
    around every forward pass, and turns the adapter's gradients back on. This one touches the
    adapter's layers only, and only where the other side ran last.
    """

    def __init__(self, model: PeftModel) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper  # whole modules and tokens, retrained

        self._layers: list[Any] = [
            module
            for module in model.modules()
            if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))
        ]
        if not self._layers:
            # Virtual tokens before the prompt, say: nothing would differ, and all would pass.
            raise ModelLoadError(
                "the adapter changes no layer of the model, so the two sides cannot be told apart "
                "here; work it into a full model and give that as --model-2"
            )
        self._is_on: bool | None = None

    @contextmanager
    def on(self) -> Iterator[None]:
        """Inside, the model is the candidate."""
        self._set(True)
        yield

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model is the reference."""
        self._set(False)
        yield

    def _set(self, is_on: bool) -> None:
        if self._is_on is not is_on:
            for layer in self._layers:
                layer._disable_adapters = not is_on
            self._is_on = is_on
