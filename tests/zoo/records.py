"""The outcome that is expected of each family: `families.json`.

`python -m tests.zoo.records` measures every family of the installed transformers and writes it;
with names of families behind it, it measures these alone, and keeps what is written of the others.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from tests.zoo.outcomes import Outcome, check, outcome_of
from tests.zoo.shrunken import FAMILIES

FILE = Path(__file__).with_name("families.json")
VERSION = "transformers"
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


@dataclass(frozen=True)
class Recorded:
    """What `families.json` says."""

    version: str
    """Of the transformers with which all were measured, but for those that name another."""
    families: Mapping[str, Record]

    def version_of(self, family: str) -> str:
        """Return the version of transformers with which a family was measured."""
        return self.families[family].get(VERSION, self.version)

    def record_of(self, family: str) -> Record:
        """Return what became of a family."""
        return {name: value for name, value in self.families[family].items() if name != VERSION}


def recorded() -> Recorded:
    """Read the expected outcomes; they hold for the version of transformers that they name."""
    found = json.loads(FILE.read_text("utf-8"))
    return Recorded(found[VERSION], found["families"])


def minor_version() -> str:
    """Return the installed transformers' version, without its last part."""
    return ".".join(transformers.__version__.split(".")[:2])


def main(chosen: Sequence[str]) -> int:
    """Write the outcomes of the chosen families, or of all; return how many are wrong."""
    torch.set_num_threads(1)
    version = recorded().version if chosen else minor_version()
    found = dict(recorded().families) if chosen else {}
    own = {VERSION: minor_version()} if version != minor_version() else {}
    wrong: dict[str, str] = {}
    for family in chosen or FAMILIES:
        start = time.perf_counter()
        try:
            outcome = outcome_of(family)
            check(family, outcome)
        except Exception as error:
            wrong[family] = f"{type(error).__name__}: {error}".partition("\n")[0]
            print(f"{family}: {wrong[family]}", file=sys.stderr)
            continue
        found[family] = record_of(outcome) | own
        worst = max(outcome.deviations, default=0.0)
        smallest = min(outcome.divergences, default=0.0)
        seconds = time.perf_counter() - start
        print(
            f"{family}: {outcome.kind}, {worst:.1e} of at least {smallest:.2f} nats/token, "
            f"{seconds:.1f} s",
            flush=True,
        )
    places = {family: place for place, family in enumerate(FAMILIES)}
    ordered = sorted(found, key=lambda family: places.get(family, len(places)))
    data = {VERSION: version, "families": {family: found[family] for family in ordered}}
    FILE.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(dict(Counter(record["outcome"] for record in found.values())), f"wrong: {len(wrong)}")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
