"""Quiet from transformers while models load: our own lines say what happens."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from transformers.utils import logging

Say = Callable[[str], None]
"""Takes one line for people."""
_logging: Any = logging  # its functions carry no types


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars, log lines, warnings or conversion threads inside."""
    variable = "DISABLE_SAFETENSORS_CONVERSION"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    verbosity = _logging.get_verbosity()
    has_bars = _logging.is_progress_bar_enabled()
    _logging.disable_progress_bar()
    _logging.set_verbosity_error()
    try:
        # Some bars of the GGUF reader ask nobody; they go where stderr points when they start.
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            # What libraries tell each other's authors (peft about transformers) is not for users.
            warnings.simplefilter("ignore")
            yield
    finally:
        _logging.set_verbosity(verbosity)
        if has_bars:
            _logging.enable_progress_bar()
        if before is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = before
