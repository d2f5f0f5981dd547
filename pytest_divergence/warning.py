"""The warning for what passed although the evidence was too little."""

from __future__ import annotations

import pytest


class DivergenceWarning(pytest.PytestWarning):
    """Something passed that a user should still look at."""
