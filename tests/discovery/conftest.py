"""The pair that most steps of a search are tested on, and a journal of their work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_divergence.core.journal import Journal
from pytest_divergence.discovery.engines.base import WorkUnits
from pytest_divergence.discovery.engines.in_process import InProcess
from pytest_divergence.models.pair import ModelPair
from tests.models_in_memory import tiny_pair


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    """Two tiny models; a test that changes one makes its own."""
    return tiny_pair()


@pytest.fixture
def units(tmp_path: Path, pair: ModelPair) -> Iterator[WorkUnits]:
    """Work units that are done here, on that pair."""
    with Journal.open(tmp_path / "journal.jsonl", key="k") as journal:
        yield WorkUnits(InProcess(journal, lambda: pair))
