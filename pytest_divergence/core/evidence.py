"""Comparison of two measurements of a row that may not be of the same kind.

A value from whole distributions and an estimate from parts of them are never compared, although
both are in nats. Their values from the chosen tokens alone are: on the same tokens, the change of
these is an unbiased estimate of the change of the divergence, with the noise of the change alone.
"""

from __future__ import annotations

from pytest_divergence.core.cases import CHOSEN, FULL, Measurement
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.setting_names import setting


def is_same_evidence(first: Measurement, second: Measurement) -> bool:
    """Whether two values were made from the same knowledge at each position."""
    return (first.evidence or FULL) == (second.evidence or FULL)


def like_for_like(measured: Measurement, stored: Measurement | None) -> Measurement:
    """Return a row's new measurement as one that can stand beside limits made from `stored`.

    If `stored` was made on other evidence, its value is carried on by the change of the chosen
    tokens' values (`k3`); never below 0. Raises `MeasurementError` where that is not possible.
    """
    if stored is None or is_same_evidence(measured, stored):
        return measured
    what = f"its kl was measured on evidence {stored.evidence or FULL!r}, and this one on "
    what += f"{measured.evidence!r}, which do not compare"
    if stored.metric != measured.metric:
        raise MeasurementError(
            f"{what} in another metric ({stored.metric}, and now {measured.metric}); leave "
            f"{setting('metric')} out"
        )
    if stored.k3 is None or measured.k3 is None:
        raise MeasurementError(
            f"{what}: its row holds no value of the chosen tokens alone (k3), as suites of before "
            f"have none; measure the suite again on local weights, with {setting('update')}"
        )
    value = max(0.0, stored.value + measured.k3 - stored.k3)
    return measured.model_copy(update={"value": value, "evidence": CHOSEN, "sd": None})


def growing_values(stored: Measurement, measured: Measurement) -> tuple[float, float]:
    """Return two numbers of one kind, whose ratio is the growth of a row; nats per token.

    That is forward KL, or where the evidence differs the chosen tokens' values. `measured` is like
    for like already.
    """
    if is_same_evidence(stored, measured):
        return stored.forward, measured.forward
    assert stored.k3 is not None  # `like_for_like` has refused it
    assert measured.k3 is not None
    return stored.k3, measured.k3
