"""The outcome that is expected of each family: `families.json`.

`python -m tests.zoo.records` measures every family of the installed transformers and writes it.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.zoo.outcomes import Outcome, check, outcome_of
from tests.zoo.shrunken import FAMILIES

FILE = Path(__file__).with_name("families.json")
Record = dict[str, str]
NUMBER = r"\d+(\.\d+)?(e-?\d+)?"
MEASURED = re.compile(
    rf",? (by|more than) {NUMBER}( nats)?| ?\([^()]*\d\.\d+[^()]*\)|(?<= )/\S+/(?=\w)"
)
"""Deviations, objectives and folders inside a sentence, which differ between machines."""


def record_of(outcome: Outcome) -> Record:
    """Return what is kept of an outcome: words, but no numbers that were measured."""
    kept = {
        "outcome": outcome.kind,
        "reason": MEASURED.sub("", outcome.reason),
        "without_soft_prompts": MEASURED.sub("", outcome.without_soft_prompts),
    }
    return {name: value for name, value in kept.items() if value}


def records() -> dict[str, Record] | None:
    """Return the expected outcomes; None where another transformers is installed."""
    found: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    families: dict[str, Record] = found["families"]
    return families if found["transformers"] == minor_version() else None


def minor_version() -> str:
    """Return the installed transformers' version, without its last part."""
    return ".".join(transformers.__version__.split(".")[:2])


def main() -> int:
    """Write the outcomes of all families; return how many are wrong."""
    torch.set_num_threads(1)
    found: dict[str, Record] = {}
    wrong: dict[str, str] = {}
    for family in FAMILIES:
        start = time.perf_counter()
        try:
            outcome = outcome_of(family)
            check(family, outcome)
        except Exception as error:
            wrong[family] = f"{type(error).__name__}: {error}".partition("\n")[0]
            print(f"{family}: {wrong[family]}", file=sys.stderr)
            continue
        found[family] = record_of(outcome)
        worst = max(outcome.deviations, default=0.0)
        smallest = min(outcome.divergences, default=0.0)
        seconds = time.perf_counter() - start
        print(
            f"{family}: {outcome.kind}, {worst:.1e} of at least {smallest:.2f} nats/token, "
            f"{seconds:.1f} s",
            flush=True,
        )
    data = {"transformers": minor_version(), "families": found}
    FILE.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(dict(Counter(record["outcome"] for record in found.values())), f"wrong: {len(wrong)}")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
