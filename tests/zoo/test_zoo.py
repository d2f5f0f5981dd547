"""Every causal language model of the installed transformers, small: measured right, or refused."""

from __future__ import annotations

import dataclasses

import pytest
from transformers import PreTrainedConfig

from tests.zoo.outcomes import check, outcome_of
from tests.zoo.records import record_of, records
from tests.zoo.shrunken import FAMILIES

ALWAYS = ("llama", "bart", "mpt", "mamba", "qwen3_5_text", "deepseek_v3", "gemma3_text", "bert")
"""One family of each way to read a row."""
RECORDS = records()
pytestmark = pytest.mark.skipif(
    not dataclasses.is_dataclass(PreTrainedConfig),
    reason="configurations are shrunk by the fields that newer transformers declare",
)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in ALWAYS else pytest.mark.zoo)
        for family in FAMILIES
    ],
)
def test_a_family_is_measured_as_plain_passes_measure_it_or_refused(family: str) -> None:
    found = outcome_of(family)

    check(family, found)
    if RECORDS is not None:
        assert record_of(found) == RECORDS[family]


@pytest.mark.skipif(RECORDS is None, reason="measured with another transformers")
def test_what_is_recorded_is_what_there_is() -> None:
    assert RECORDS is not None
    assert [*RECORDS] == [*FAMILIES]
