"""A value that is computed when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Once(Generic[Value]):
    """A value computed on first use. A failure is kept too, and raised again."""

    def __init__(self, compute: Callable[[], Value]) -> None:
        """Call `compute` later."""
        self._compute = compute
        self._values: list[Value] = []
        self._error: Exception | None = None

    def __bool__(self) -> bool:
        """Whether there is a value."""
        return bool(self._values)

    def __call__(self) -> Value:
        """Return the value, or raise what computing it raised."""
        if self._error is not None:
            raise self._error
        if not self._values:
            try:
                self._values.append(self._compute())
            except Exception as error:
                self._error = error
                raise
        return self._values[0]
