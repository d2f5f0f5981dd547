"""Rules for the values that pass, for bounds, and for the limit of a promoted case.

Plain numbers of one metric, in its unit.
"""

from __future__ import annotations

import math
from typing import Literal

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.provenance import NoiseFloor
from pytest_divergence.core.setting_names import setting

FLOOR_FACTOR = 3.0
"""Smallest bound, as a multiple of the noise floor."""
ROUNDING = 1e-9
"""Relative: a bound that was stored as three times the floor is not under it."""
ARITHMETIC_FLOOR = 1e-6
"""Nats that float32 arithmetic itself makes of a divergence of zero."""
GROWTH = 1.25
"""Factor by which a divergence may grow after it was approved."""


def judge(value: float, max_kl: float) -> Literal["passed", "failed"]:
    """Return `passed` only for a finite value at or below a finite bound, in the same unit.

    NaN on either side never passes.
    """
    is_within = math.isfinite(value) and math.isfinite(max_kl) and value <= max_kl
    return "passed" if is_within else "failed"


def check_bound(
    max_kl: float, floor: NoiseFloor | None, metric: str, *, dtype: str, name: str = "max_kl"
) -> None:
    """Raise SettingsError for a metric's bound that the noise alone could break.

    Any bound passes if no noise floor is known. `dtype` is the one that the floor was measured in,
    and `name` what the user wrote to give the bound.
    """
    noise = floor.of(metric) if floor is not None else None
    if floor is None or noise is None or max_kl >= FLOOR_FACTOR * noise * (1 - ROUNDING):
        return
    least = f"{_rounded_up(FLOOR_FACTOR * noise):.3g}"
    way_out = "" if dtype == "float32" else f", or measure in float32 ({setting('dtype')})"
    raise SettingsError(
        f"{name}={max_kl:g} is within the noise: the reference differs from itself by up to "
        f"{noise:.3g} {floor.unit_of(metric)}, and a bound must be at least {FLOOR_FACTOR:g} x "
        f"that, {least}; raise max_kl to at least {least}{way_out}"
    )


def approved_limit(value: float, noise_floor: float | None) -> float:
    """Return the `max_kl` of a case measured at `value`: a quarter more, never inside the noise.

    All in one metric's unit.
    """
    return max(GROWTH * value, with_noise(value, noise_floor))


def with_noise(value: float, noise_floor: float | None) -> float:
    """Return the largest number that `value` may read as when it is measured again.

    All in one metric's unit. A divergence is about a squared distance of two distributions, so
    noise that alone reads as n moves v by up to 2 sqrt(v n) + n: (sqrt(v) + sqrt(3 floor))^2. A
    noise floor that was not measured counts as that of arithmetic.
    """
    floor = ARITHMETIC_FLOOR if noise_floor is None else noise_floor
    return (math.sqrt(max(value, 0.0)) + math.sqrt(FLOOR_FACTOR * floor)) ** 2


def _rounded_up(value: float) -> float:
    """Return `value` rounded up to three digits, so that the number in a message is enough."""
    digits = 2 - math.floor(math.log10(value))
    return math.ceil(value * 10.0**digits * (1 - ROUNDING)) / 10.0**digits
