"""`--collect-only` of a large suite, against a minimal collector of the same rows.

Whole pytest processes, run in turn: python benchmarks/collecting.py [NUM_ROWS [NUM_TURNS]]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_divergence.core.cases import Case, Completions, Measurement, Origin
from pytest_divergence.core.file_names import sidecar_path
from pytest_divergence.core.suites import write_suite
from pytest_divergence.core.tokens import StoredTokens
from tests.tokens_writing import write_tokens

ROOT = Path(__file__).parents[1]
MINIMAL = """
import json

import pytest


def check():
    pass


class Rows(pytest.File):
    def collect(self):
        for line in self.path.read_text("utf-8").splitlines():
            yield pytest.Function.from_parent(self, name=json.loads(line)["id"], callobj=check)


def pytest_collect_file(file_path, parent):
    return Rows.from_parent(parent, path=file_path) if file_path.suffix == ".jsonl" else None
"""


def rows(count: int) -> Iterator[Case]:
    """Cases as a search exports them."""
    for number in range(count):
        yield Case(
            input=f"What would you tell a friend who asks about topic {number}, and why?",
            max_kl=0.25,
            kl=Measurement(
                value=0.1 + number * 1e-6,
                metric="symmetric",
                forward=0.1,
                reverse=0.14,
                js=0.03,
                sd=0.02,
                max_token=1.5,
                num_tokens=128,
                num_continuations=4,
                estimator="fresh",
            ),
            completions=Completions(
                reference="A plain answer of one model, about as long as one sentence is.",
                candidate="Another answer of the other model, which goes on for a bit longer.",
            ),
            origin=Origin(strategy="self_prompt", search_kl=0.2),
        )


def write(path: Path, cases: Sequence[Case]) -> None:
    """A suite with the continuations of each case: four of each model, of 32 tokens."""
    write_suite(path, cases)
    written = [[1000 + (7 * token) % 40_000 for token in range(32)]] * 4
    tokens = (
        StoredTokens(id=case.id, prompt_sha256="0" * 64, reference=written, candidate=written)
        for case in cases
    )
    write_tokens(sidecar_path(path, "tokens.jsonl"), tokens)


def seconds(folder: Path, plugin: str, count: int) -> float:
    """One whole `pytest --collect-only -q`, which must have listed every row."""
    command = [sys.executable, "-m", "pytest", "-p", plugin, "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    run = subprocess.run(
        [*command, "--collect-only", "-q", "rows.divergence.jsonl"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    elapsed = time.perf_counter() - started
    assert run.stdout.count("rows.divergence.jsonl::what-") == count, run.stdout[-300:]
    return elapsed


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    turns = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    with tempfile.TemporaryDirectory() as name:
        ours, minimal = Path(name, "ours"), Path(name, "minimal")
        for folder in (ours, minimal):
            folder.mkdir()
            write(folder / "rows.divergence.jsonl", list(rows(count)))
        (minimal / "conftest.py").write_text(MINIMAL, "utf-8")
        pairs = [
            (seconds(ours, "divergence", count), seconds(minimal, "no:divergence", count))
            for _ in range(turns + 1)
        ][1:]  # the first turn writes the bytecode
    ratios = [mine / theirs for mine, theirs in pairs]
    print(f"--collect-only of {count:,} rows, whole process, {turns} turns")
    print(f"pytest-divergence   {statistics.median(mine for mine, _ in pairs):6.2f} s")
    print(f"minimal collector   {statistics.median(theirs for _, theirs in pairs):6.2f} s")
    print(
        f"ratio               {statistics.median(ratios):6.2f}  "
        f"(min {min(ratios):.2f}, max {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
