"""The limit that a measured value gets once people have approved it."""

from __future__ import annotations

from pytest_divergence.core.bounds import FLOOR_FACTOR

ARITHMETIC_FLOOR = 1e-6
"""What float32 arithmetic itself leaves of a divergence of zero, nats."""
GROWTH = 1.25
"""How much larger than when it was approved a divergence may be."""


def approved_limit(value: float, noise_floor: float | None) -> float:
    """`max_kl` of a case that read `value`: a quarter more, and never inside the noise.

    All in one metric's unit. A noise floor that was not measured counts as that of arithmetic.
    """
    floor = ARITHMETIC_FLOOR if noise_floor is None else noise_floor
    return max(GROWTH * value, max(value, 0.0) + FLOOR_FACTOR * floor)
