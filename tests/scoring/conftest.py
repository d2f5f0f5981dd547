"""The pair that most measurements are tested on."""

from __future__ import annotations

import pytest

from pytest_divergence.models.pair import ModelPair
from tests.models_in_memory import tiny_pair


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    """Two tiny models; a test that changes one makes its own."""
    return tiny_pair()
