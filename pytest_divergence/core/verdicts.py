"""Which values pass, which bounds may stand, and which limit a promoted case gets.

Plain numbers of one metric, in its unit.
"""

from __future__ import annotations

import math
from typing import Literal

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.provenance import NoiseFloor
from pytest_divergence.core.setting_names import setting

FLOOR_FACTOR = 3.0
"""How many times the noise floor a bound must be, at least."""
ROUNDING = 1e-9
"""Relative: a bound that was stored as three times the floor is not under it."""
ARITHMETIC_FLOOR = 1e-6
"""What float32 arithmetic itself leaves of a divergence of zero, nats."""
GROWTH = 1.25
"""How much larger than when it was approved a divergence may be."""


def judge(value: float, max_kl: float) -> Literal["passed", "failed"]:
    """`passed` only for a finite value at or under a finite bound, both in nats per token.

    Written so that NaN on either side never passes.
    """
    is_within = math.isfinite(value) and math.isfinite(max_kl) and value <= max_kl
    return "passed" if is_within else "failed"


def check_bound(
    max_kl: float, floor: NoiseFloor | None, metric: str, *, dtype: str, name: str = "max_kl"
) -> None:
    """Raise SettingsError for a metric's bound that the noise alone could break.

    A bound stands where no noise floor is known. `dtype` is the one that the floor was measured in,
    and `name` what the user wrote to give the bound.
    """
    noise = floor.of(metric) if floor is not None else None
    if floor is None or noise is None or max_kl >= FLOOR_FACTOR * noise * (1 - ROUNDING):
        return
    least = f"{_rounded_up(FLOOR_FACTOR * noise):.3g}"
    way_out = "" if dtype == "float32" else f", or measure in float32 ({setting('dtype')})"
    raise SettingsError(
        f"{name}={max_kl:g} is within the noise: the reference reads up to {noise:.3g} "
        f"{floor.unit_of(metric)} against itself, and a bound must be at least {FLOOR_FACTOR:g} x "
        f"that, {least}; raise max_kl to at least {least}{way_out}"
    )


def approved_limit(value: float, noise_floor: float | None) -> float:
    """`max_kl` of a case that read `value`: a quarter more, and never inside the noise.

    All in one metric's unit. A noise floor that was not measured counts as that of arithmetic.
    """
    floor = ARITHMETIC_FLOOR if noise_floor is None else noise_floor
    return max(GROWTH * value, max(value, 0.0) + FLOOR_FACTOR * floor)


def _rounded_up(value: float) -> float:
    """`value` to three digits, never less: what a message tells people to give must be enough."""
    digits = 2 - math.floor(math.log10(value))
    return math.ceil(value * 10.0**digits * (1 - ROUNDING)) / 10.0**digits
