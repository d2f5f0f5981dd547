"""Other values in place of a model's weights, for a while.

Owns how they are put in and taken out; does not know what they are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor, nn

from pytest_divergence.models.side import ModelSide

Activate = Callable[[], AbstractContextManager[object]]


class WeightSwitch:
    """Two sets of values of the same weights: the model's own, and others.

    Only references are exchanged. The own values are never computed on, so that taking the others
    out leaves every bit as it was, and a switch costs next to nothing.
    """

    def __init__(self, others: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
        """Hold the others beside the model's own, which stay in place."""
        self._weights = [(weight, weight.data, other) for weight, other in others]
        self._is_on = False

    def __len__(self) -> int:
        """How many weights have other values."""
        return len(self._weights)

    def sides(self, side: ModelSide) -> tuple[ModelSide, ModelSide]:
        """One model as both sides: the reference with its own values, the candidate with others.

        To be used alternately, like the sides of an adapter pair.
        """
        own, other = (_both(side.activate, self._set_to(is_on)) for is_on in (False, True))
        # The chat prefix was read with the own values, so the others start without it.
        return (
            ModelSide("reference", side.model, own, side.meter, side.vocabulary),
            ModelSide("candidate", side.model, other, side.meter, side.vocabulary),
        )

    def restore(self) -> None:
        """Put the model's own values back."""
        self._set(False)

    def _set_to(self, is_on: bool) -> Activate:
        @contextmanager
        def switched() -> Iterator[None]:
            self._set(is_on)
            yield

        return switched

    def _set(self, is_on: bool) -> None:
        if self._is_on is not is_on:
            for weight, own, other in self._weights:
                weight.data = other if is_on else own
            self._is_on = is_on


def _both(first: Activate, second: Activate) -> Activate:
    @contextmanager
    def entered() -> Iterator[None]:
        with first(), second():
            yield

    return entered
