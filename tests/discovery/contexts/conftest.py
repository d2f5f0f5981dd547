"""A pair whose candidate reacts to one system text, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_divergence.core.journal import Journal
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.models.pair import ModelPair
from tests.dated_model import dated_model
from tests.discovery.posted_units import Posted
from tests.models_in_memory import tiny_model
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def dated_pair() -> ModelPair:
    return ModelPair.from_models(tiny_model(), dated_model(), tiny_tokenizer())


@pytest.fixture
def dated_ledger(tmp_path: Path, dated_pair: ModelPair) -> Iterator[Ledger]:
    with Journal.open(tmp_path / "dated.jsonl", key="k") as journal:
        yield Ledger(Posted(journal, lambda: dated_pair, Silence(), tmp_path))
