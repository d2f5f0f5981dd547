"""How long work takes, and two ways to do it in turn, as a ratio: shared by the benchmarks here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def seconds(work: Callable[[], object]) -> float:
    """Of one run of it."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """`0.57 x (min 0.49, max 0.61, 5 turns)`: the median of the turns' ratios."""
    found = [one / other for one, other in zip(ours, theirs, strict=True)]
    return (
        f"{statistics.median(found):.2f} x "
        f"(min {min(found):.2f}, max {max(found):.2f}, {len(found)} turns)"
    )
