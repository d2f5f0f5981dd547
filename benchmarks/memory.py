"""Peak memory of an adapter pair against the reference alone, each in a process of its own.

python benchmarks/memory.py MODEL_1 ADAPTER
"""

from __future__ import annotations

import subprocess
import sys

SCORE = """
import resource, sys
from pytest_divergence import load_model_pair, score_prompts
pair = load_model_pair(sys.argv[1], sys.argv[2])
score_prompts(pair, ["How do I tie a knot?"] * 8, num_continuations=1, max_new_tokens=16)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_megabytes(model_1: str, model_2: str) -> float:
    """Peak resident memory of a process that loads and scores the pair."""
    output = subprocess.run(
        [sys.executable, "-c", SCORE, model_1, model_2],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return int(output.split()[-1]) / 1024


def main() -> None:
    model_1, adapter = sys.argv[1:3]
    peak_megabytes(model_1, model_1)  # the demo's conversion, if any, is not what is measured
    alone, pair = peak_megabytes(model_1, model_1), peak_megabytes(model_1, adapter)
    print(f"reference alone  {alone:7.0f} MB")
    print(f"adapter pair     {pair:7.0f} MB")
    print(f"ratio            {pair / alone:7.2f}")


if __name__ == "__main__":
    main()
