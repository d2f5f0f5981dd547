"""The frames of a caught error, which hold models: emptied, so that the traceback still reads."""

from __future__ import annotations

import inspect
import traceback
from contextlib import suppress
from types import FrameType

PACKAGE = "pytest_divergence"


def forget_frames(error: BaseException | None) -> None:
    """Empty the frames of an error and of all that it came from, but for those that still run."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        for frame, _ in traceback.walk_tb(error.__traceback__):
            _forget_callers(frame)
        error = error.__cause__ or error.__context__


def _forget_callers(frame: FrameType) -> None:
    """Empty our own frames above the one that caught an error: they are reached from it too."""
    caller = frame.f_back
    while caller is not None and caller.f_globals.get("__name__", "").startswith(PACKAGE):
        if not caller.f_code.co_flags & inspect.CO_GENERATOR:  # which this would end
            with suppress(RuntimeError):  # it still runs
                caller.clear()
        caller = caller.f_back
