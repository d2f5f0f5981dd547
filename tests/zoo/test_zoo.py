"""Every causal language model of the installed transformers, small: measured right, or refused."""

from __future__ import annotations

import pytest

from tests.zoo.outcomes import check, outcome_of
from tests.zoo.records import record_of, records
from tests.zoo.shrunken import FAMILIES

ALWAYS = ("llama", "bart", "mpt", "mamba", "qwen3_5_text", "deepseek_v3", "gemma3_text", "bert")
"""One family of each way to read a row."""
RECORDS = records()


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
    if family in RECORDS:
        assert record_of(found) == RECORDS[family]


def test_the_families_of_this_transformers_are_recorded() -> None:
    assert not RECORDS or RECORDS.keys() == {*FAMILIES}
