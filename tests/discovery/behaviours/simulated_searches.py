"""Simulated searches: leads as shares of answers, judged by the project's own tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from pytest_divergence.core.settings import PROFILES
from pytest_divergence.discovery.behaviours.hypothesis_tests import (
    ALPHA,
    NUM_LOCAL_PROMPTS,
    NUM_REPEATS,
    holm,
    is_clear,
    p_value_of,
    rule_of,
)

SMOKE = PROFILES["smoke"]
NUM_SEARCHED = 100
"""Prompts of a simulated search."""
Lead = tuple[Any, Any]
"""How likely candidate and reference show a lead in an answer to each prompt."""


def null_leads(rng: np.random.Generator, num_leads: int, spread: float) -> list[Lead]:
    """Leads that either model shows as often as the other, on 1 prompt in 33 without a spread.

    `spread` is how far the log-odds of either model wobble from prompt to prompt.
    """
    rates = 1 / (1 + np.exp(3.5 - spread * rng.normal(size=(num_leads, 2, NUM_SEARCHED))))
    return [(candidate, reference) for candidate, reference in rates]


def confirmed_of(rng: np.random.Generator, leads: list[Lead], decoy_of: list[Lead]) -> list[int]:
    """Which of the leads a search confirms, by number; -1 is the decoy.

    The leads that most prompts show are tested, and the strongest of `decoy_of`, models exchanged.
    """

    def found(lead: Lead) -> tuple[int, Any, Any]:
        ours, theirs = (rng.random(NUM_SEARCHED) < rates for rates in lead)
        only, reverse = np.flatnonzero(ours & ~theirs), np.flatnonzero(theirs & ~ours)
        return len(only) - len(reverse), only, reverse

    seen = {number: (*found(lead), lead) for number, lead in enumerate(leads)}
    best = sorted(seen, key=lambda number: -seen[number][0])[: SMOKE.num_tested_leads]
    tested = {number: seen[number] for number in best if seen[number][0] > 0}
    mirrored = [(*found((theirs, ours)), (theirs, ours)) for ours, theirs in decoy_of]
    tested[-1] = max(mirrored, key=lambda each: each[0])
    outcomes = {}
    for number, (_, only, reverse, (ours, theirs)) in tested.items():
        rule = rule_of(len(only), len(reverse), len(leads))
        prompts = (
            rng.permutation([*only, *reverse])[: SMOKE.num_behaviour_prompts]
            if rule.kind == "triggered"
            else only[:NUM_LOCAL_PROMPTS]
        )
        both = (rng.binomial(NUM_REPEATS[rule.kind], rates[prompts]) for rates in (ours, theirs))
        counts = [(int(a), int(b)) for a, b in zip(*both, strict=True)]
        if counts:
            outcomes[number] = p_value_of(rule.kind, counts), is_clear(rule, counts)
    adjusted = holm([p_value for p_value, _ in outcomes.values()])
    return [
        number
        for (number, (_, clear)), p_value in zip(outcomes.items(), adjusted, strict=True)
        if p_value <= ALPHA and clear
    ]


def real_lead(num_shown: int, rate: float) -> Lead:
    """A lead of the candidate alone, which so many prompts show in this share of its answers."""
    shown = np.where(np.arange(NUM_SEARCHED) < num_shown, rate, 0.0)
    return shown, np.zeros(NUM_SEARCHED)
