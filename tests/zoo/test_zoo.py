"""Every causal language model of the installed transformers, small: measured right, or refused.

A family for each mechanism of reading by day, all others by night.
"""

from __future__ import annotations

import dataclasses

import pytest
from transformers import PreTrainedConfig

from tests.zoo.outcomes import check, outcome_of
from tests.zoo.records import minor_version, record_of, recorded
from tests.zoo.shrunken import FAMILIES

BY_DAY = {
    "llama": "rotary positions",
    "gpt2": "absolute positions",
    "mamba": "a state space, which is read a row at a time",
    "falcon_h1": "a hybrid: attention and a state space side by side",
    "deepseek_v3": "a mixture of experts, and keys and values of low rank",
    "gemma3_text": "a sliding window in every other layer",
    "cohere": "an output head that is the embedding (see overrides.py)",
    "kolibri1_1": "quantised: keys and values in four bits; not yet in older transformers",
}
"""The mechanism that each stands for. Weights in few bits: tests/models/test_quantised.py."""
RECORDED = recorded()
pytestmark = pytest.mark.skipif(
    not dataclasses.is_dataclass(PreTrainedConfig),
    reason="configurations are shrunk by the fields that newer transformers declare",
)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in BY_DAY else pytest.mark.slow)
        for family in FAMILIES
    ],
)
def test_a_family_is_measured_as_plain_passes_measure_it_or_refused(family: str) -> None:
    if family not in RECORDED.families:  # newer than the last measurement: no one's mistake
        pytest.skip(f"not known yet; to measure it: python -m tests.zoo.records {family}")

    found = outcome_of(family)

    check(family, found)
    if RECORDED.version_of(family) == minor_version():
        assert record_of(found) == RECORDED.record_of(family)


def test_what_is_recorded_is_what_there_is() -> None:
    ours = [name for name in RECORDED.families if RECORDED.version_of(name) == minor_version()]

    assert not {*ours} - {*FAMILIES}
