"""bfloat16 against float32 on this CPU, phase by phase: time as a ratio, and what it does to KL.

python benchmarks/dtypes.py demo:smollm2-135m demo:travel-advert
"""

from __future__ import annotations

import statistics
import sys
from functools import partial

from products import moved, phases
from timing import ratio, seconds

from pytest_divergence import load_model_pair

NUM_TURNS = 3
DTYPES = ("bfloat16", "float32")


def main() -> None:
    short, exact = (load_model_pair(*sys.argv[1:3], dtype=dtype) for dtype in DTYPES)
    first, works = phases(exact)
    again = works["scoring 32 stored cases"](short)
    for name, work in works.items():
        turns = [
            [seconds(partial(work, pair)) for pair in (short, exact)] for _ in range(NUM_TURNS)
        ]
        ours, theirs = zip(*turns, strict=True)
        print(
            f"{name:24} bfloat16 {statistics.median(ours):6.2f} s, float32 "
            f"{statistics.median(theirs):6.2f} s   {ratio(ours, theirs)}"
        )
    changes = moved(first, again)
    print(
        f"a case's KL moves by {max(changes):.1e} nats/token at most, by "
        f"{statistics.median(changes):.1e} in the median"
    )


if __name__ == "__main__":
    main()
