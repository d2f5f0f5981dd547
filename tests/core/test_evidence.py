"""Values of different evidence are never compared; those of the chosen tokens are."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_divergence.core.cases import Measurement
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.evidence import growing_values, like_for_like


def measurement(value: float, **changes: Any) -> Measurement:
    fields = {
        "value": value,
        "metric": "symmetric",
        "forward": value,
        "reverse": value,
        "js": value / 4,
        "sd": None,
        "max_token": value,
        "num_tokens": 32,
        "num_continuations": 1,
        "estimator": "stored",
        "evidence": "full",
        "k3": value,
    }
    return Measurement(**{**fields, **changes})


def test_a_value_of_the_same_evidence_stays_as_it_is() -> None:
    new = measurement(0.3)

    assert like_for_like(new, measurement(0.2)) is new
    assert like_for_like(new, None) is new
    # A row of before counts as one of all probabilities.
    assert like_for_like(new, measurement(0.2, evidence=None, k3=None)) is new


def test_a_value_of_all_tokens_is_carried_on_by_the_change_of_the_chosen_ones() -> None:
    """0.30 nats of all tokens had 0.20 of the chosen ones; these have 0.25 now."""
    stored = measurement(0.30, k3=0.20)
    new = measurement(0.41, evidence="head:64", k3=0.25)

    found = like_for_like(new, stored)

    assert found.value == pytest.approx(0.35)
    assert found.evidence == "chosen"
    assert growing_values(stored, found) == (0.20, 0.25)


def test_a_server_and_local_weights_are_compared_either_way_and_never_below_zero() -> None:
    served = measurement(0.30, evidence="head:64", k3=0.20)
    assert like_for_like(measurement(0.41, k3=0.10), served).value == pytest.approx(0.20)

    found = like_for_like(measurement(0.1, evidence="head:64", k3=0.0), measurement(0.10, k3=0.30))
    assert found.value == 0.0


def test_growth_of_equal_evidence_is_that_of_forward_kl() -> None:
    assert growing_values(measurement(0.2), measurement(0.3)) == (0.2, 0.3)


def test_a_suite_of_before_says_how_it_becomes_comparable() -> None:
    with pytest.raises(MeasurementError) as caught:
        like_for_like(
            measurement(0.3, evidence="head:64"), measurement(0.2, evidence=None, k3=None)
        )

    assert str(caught.value) == (
        "its kl was measured on evidence 'full', and this one on 'head:64', which do not "
        "compare: its row holds no value of the chosen tokens alone (k3), as suites of before have "
        "none; measure the suite again on local weights, with --divergence-update"
    )


def test_another_metric_has_other_values_of_chosen_tokens() -> None:
    with pytest.raises(MeasurementError, match=r"another metric \(symmetric, and now js\); leave"):
        like_for_like(measurement(0.3, metric="js", evidence="head:64"), measurement(0.2))
