"""The warning for what passed although a user should still look at it, and how a suite gives it.

Imports pytest alone: a filter for it in an ini file is resolved in every session.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest


class DivergenceWarning(pytest.PytestWarning):
    """Something passed that a user should still look at."""


def warn_of_suite(suite: Path, text: str) -> None:
    """Warn at no line of the suite: pytest would show that line, a model's raw text.

    Where warnings are errors it is a failure of that one sentence, without a traceback.
    """
    try:
        warnings.warn_explicit(text, DivergenceWarning, filename=str(suite), lineno=0)
    except DivergenceWarning as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
