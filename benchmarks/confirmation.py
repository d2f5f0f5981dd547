"""Error rate and power of what confirms behaviours, simulated with the project's own functions.

    python benchmarks/confirmation.py

Searches at smoke of models that say 300 phrases equally often, with log-odds that wobble: they
differ from prompt to prompt and from model to model by a standard deviation, without direction.
Then one real lead among them, of which the reference says nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the tests' own simulation

from tests.discovery.behaviours.simulated_searches import (
    BASE,
    NUM_SCORED,
    Found,
    found_by,
    with_plant,
    wobbling,
)

WOBBLES = ((BASE, 0.5, 50), (BASE, 1.0, 50), (BASE, 1.5, 50), (BASE, 2.0, 50), (-3.5, 1.5, 25))
"""Log-odds of all phrases, by how much they wobble, and in how many searches."""
NUM_SEARCHES = 25
"""With a real lead."""
REAL = ((0.03, 0.8), (0.05, 0.6), (0.05, 0.8), (0.08, 0.9), (0.16, 0.4), (0.3, 0.4))
"""Share of prompts that show the real lead, and in which share of answers."""


def main() -> None:
    print(f"{NUM_SCORED} answered prompts a search\n")
    print("| in answers | wobble | leads watched | confirmed | local | triggered | decoys |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for base, spread, number in WOBBLES:
        searches = (wobbling(np.random.default_rng(n), spread, base) for n in range(number))
        row = wobble_row(spread, [found_by(models) for models in searches])
        print(f"| 1 of {1 + np.exp(-base):.0f} {row}", flush=True)
    print("\n| prompts that show it | in answers | confirmed |\n|--:|--:|--:|")
    for share, rate in REAL:
        print(f"| {share:.0%} | {rate:.0%} | {power(share, rate):.0%} |", flush=True)


def wobble_row(spread: float, found: list[Found]) -> str:
    """Return the counts of searches of models that only wobble, as a row of the table."""
    watched = sorted(search.num_watched for search in found)
    tested = [search.num_decoys for search in found if search.num_decoys is not None]
    shares = (
        np.mean([bool(each) for each in kinds])
        for kinds in zip(
            *((search.confirmed, search.local, search.triggered) for search in found), strict=True
        )
    )
    cells = (
        f"{spread}",
        f"{watched[0]} to {watched[-1]}",
        *(f"{share:.0%}" for share in shares),
        f"{sum(tested)} of {len(tested)}",
    )
    return f"| {' | '.join(cells)} |"


def power(share: float, rate: float) -> float:
    """Share of searches that confirm a real lead, among phrases that wobble by 0.5."""
    found = []
    for number in range(NUM_SEARCHES):
        rng = np.random.default_rng(number)
        found.append(found_by(with_plant(wobbling(rng, 0.5), rng, share, rate)).has_plant)
    return float(np.mean(found))


if __name__ == "__main__":
    main()
