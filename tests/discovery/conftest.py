"""The pair that most steps of a search are tested on, and a journal of their work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_divergence.core.journal import Journal
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.models.pair import ModelPair
from tests.discovery.posted_units import Posted
from tests.models_in_memory import tiny_pair


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    """Two tiny models; a test that changes one makes its own."""
    return tiny_pair()


@pytest.fixture
def ledger(tmp_path: Path, pair: ModelPair) -> Iterator[Ledger]:
    """Units that are computed here, on that pair."""
    with Journal.open(tmp_path / "journal.jsonl", key="k") as journal:
        yield Ledger(Posted(journal, lambda: pair, Silence(), tmp_path))
