"""What the plugin costs a session that does not use it: python benchmarks/imports.py"""

from __future__ import annotations

import statistics
import subprocess
import sys

NUM_RUNS = 15
TIMED = """
import pytest, time
started = time.perf_counter()
import pytest_divergence.plugin
print(time.perf_counter() - started)
"""


def main() -> None:
    runs = [float(subprocess.check_output([sys.executable, "-c", TIMED])) for _ in range(NUM_RUNS)]
    milliseconds = sorted(1000 * run for run in runs)
    print(
        f"import pytest_divergence.plugin: median {statistics.median(milliseconds):.1f}"
        f" ms (min {milliseconds[0]:.1f}, max {milliseconds[-1]:.1f}, {NUM_RUNS} processes)"
    )


if __name__ == "__main__":
    main()
