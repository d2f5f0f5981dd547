"""Release of the models that a caught error's frames hold; its traceback stays readable."""

from __future__ import annotations

import inspect
import traceback
from contextlib import suppress
from types import FrameType

PACKAGE = "pytest_divergence"


def forget_frames(error: BaseException | None) -> None:
    """Clear the frames of an error, its causes and contexts, except those still running."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        for frame, _ in traceback.walk_tb(error.__traceback__):
            _forget_callers(frame)
        error = error.__cause__ or error.__context__


def _forget_callers(frame: FrameType) -> None:
    """Clear this package's frames above the one that caught an error: it refers to them too."""
    caller = frame.f_back
    while caller is not None and caller.f_globals.get("__name__", "").startswith(PACKAGE):
        if not caller.f_code.co_flags & inspect.CO_GENERATOR:  # clearing would end a generator
            with suppress(RuntimeError):  # it still runs
                caller.clear()
        caller = caller.f_back
