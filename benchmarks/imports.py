"""What the plugin costs who does not use it, and how fast the command answers.

python benchmarks/imports.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

NUM_RUNS = 15
TIMED = """
import pytest, time
started = time.perf_counter()
import pytest_divergence.plugin
print(time.perf_counter() - started)
"""
HELP = ("-m", "pytest_divergence.cli", "--help")
NOTHING = ("-c", "pass")


def main() -> None:
    show("import pytest_divergence.plugin", [import_seconds() for _ in range(NUM_RUNS)])
    show("pytest-divergence --help", [process_seconds(*HELP) for _ in range(NUM_RUNS)])
    show("python that does nothing", [process_seconds(*NOTHING) for _ in range(NUM_RUNS)])


def import_seconds() -> float:
    """Of the import alone, pytest being there."""
    return float(subprocess.check_output([sys.executable, "-c", TIMED]))


def process_seconds(*arguments: str) -> float:
    """Of a whole Python process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def show(what: str, runs: list[float]) -> None:
    milliseconds = sorted(1000 * run for run in runs)
    print(
        f"{what}: median {statistics.median(milliseconds):.1f}"
        f" ms (min {milliseconds[0]:.1f}, max {milliseconds[-1]:.1f}, {NUM_RUNS} processes)"
    )


if __name__ == "__main__":
    main()
