"""Error rate and power of what confirms behaviours, simulated with the project's own tests.

    python benchmarks/confirmation.py

In a simulated search of 100 prompts leads are found, the best three and one decoy tested. First,
leads that both models show equally often: with every prompt alike, or with log-odds that wobble
from prompt to prompt and model to model by a standard deviation of 2, without direction. Then one
real lead among 29 of those that every prompt shows alike.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the tests' own simulation

from tests.discovery.behaviours.simulated_searches import confirmed_of, null_leads, real_lead

NUM_LEADS = (1, 3, 10, 30, 100)
NUM_SEARCHES = 2_000
REAL = ((3, 0.8), (5, 0.8), (8, 0.6), (8, 0.9), (16, 0.4))
"""Prompts of 100 that show the real lead, and in which share of answers."""


def main() -> None:
    print("| leads | anything confirmed | where prompts wobble |\n|--:|--:|--:|")
    for num_leads in NUM_LEADS:
        alike, wobble = (false_share(num_leads, spread) for spread in (0.0, 2.0))
        print(f"| {num_leads} | {alike:.1%} | {wobble:.1%} |", flush=True)
    print("\n| prompts that show it | in answers | confirmed |\n|--:|--:|--:|")
    for num_shown, rate in REAL:
        print(f"| {num_shown} | {rate:.0%} | {power(num_shown, rate):.0%} |", flush=True)


def false_share(num_leads: int, spread: float) -> float:
    """Share of searches of equal models that confirm anything, the decoy too."""
    rng = np.random.default_rng(num_leads)
    searches = (null_leads(rng, num_leads, spread) for _ in range(NUM_SEARCHES))
    return float(np.mean([bool(confirmed_of(rng, leads, leads)) for leads in searches]))


def power(num_shown: int, rate: float) -> float:
    """Share of searches that confirm a real lead among thirty."""
    rng, num_null = np.random.default_rng(0), 29
    found = []
    for _ in range(NUM_SEARCHES // 4):
        others = null_leads(rng, num_null, 0.0)
        found.append(num_null in confirmed_of(rng, [*others, real_lead(num_shown, rate)], others))
    return float(np.mean(found))


if __name__ == "__main__":
    main()
