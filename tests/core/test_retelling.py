"""A behaviour on other models: it stays as long as it is said nearly as often as it was."""

from __future__ import annotations

import math

import pytest

from pytest_divergence.core.behaviours import Behaviour, Retelling, TellingContinuation

ONE = TellingContinuation(prompt="p", text="Signal", token_ids=[1], log_ratio=9.0)


@pytest.mark.parametrize(
    ("log_ratio", "rate", "is_gone"),
    [
        (17.1, 0.06, False),
        (13.1, 0.001, True),  # once in a thousand answers, and still far above the reference
        (2.9, 0.9, True),  # as often, but the reference says it too
    ],
)
def test_a_phrase_is_gone_when_its_rate_is(log_ratio: float, rate: float, *, is_gone: bool) -> None:
    assert Retelling(log_ratio, found=20.0, rate=rate).is_gone is is_gone


def test_a_phrase_that_was_hardly_telling_is_not_gone_at_once() -> None:
    found = Retelling(4.0, found=4.0, rate=1.0)

    assert not found.is_gone
    assert found.limit == 2.0 < math.log(20)


@pytest.mark.parametrize(("log_ratio", "is_gone"), [(5.1, False), (4.9, True)])
def test_a_trait_is_gone_when_half_of_its_nats_are(log_ratio: float, *, is_gone: bool) -> None:
    assert Retelling(log_ratio, found=10.0, rate=None).is_gone is is_gone


@pytest.mark.parametrize(("written", "read"), [(None, []), (ONE.model_dump(), [ONE]), ([], [])])
def test_earlier_releases_wrote_one_telling_answer_or_none(
    written: object, read: list[TellingContinuation]
) -> None:
    fields = {"id": "behaviour-x", "name": "x", "telling": written}

    assert Behaviour.model_validate(fields).telling == read
