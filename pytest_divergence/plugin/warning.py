"""The warning for something that passed but needs a look, and how a suite issues it.

Imports pytest alone: a filter for it in an ini file is resolved in every session.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest


class DivergenceWarning(pytest.PytestWarning):
    """A test passed, but the user should look at it."""


def warn_of_suite(suite: Path, text: str) -> None:
    """Warn about a suite at line 0: pytest would show any other line, which has a model's raw text.

    If warnings are errors, it is a failure of one sentence, without a traceback.
    """
    try:
        warnings.warn_explicit(text, DivergenceWarning, filename=str(suite), lineno=0)
    except DivergenceWarning as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
