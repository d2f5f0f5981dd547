"""The rule by which a measured value passes."""

from __future__ import annotations

import math
from typing import Literal


def judge(value: float, max_kl: float) -> Literal["passed", "failed"]:
    """`passed` only for a finite value at or under a finite bound, both in nats per token.

    Written so that NaN on either side never passes.
    """
    is_within = math.isfinite(value) and math.isfinite(max_kl) and value <= max_kl
    return "passed" if is_within else "failed"
