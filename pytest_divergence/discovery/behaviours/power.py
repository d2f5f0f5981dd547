"""Power of the tests of leads: how many leads that were named they confirm.

Exact, from the sizes of a profile and the tests themselves. Does not know how leads are named, nor
how often.
"""

from __future__ import annotations

from scipy.stats import binom

from pytest_divergence.core.report import PowerPoint
from pytest_divergence.core.settings import Profile
from pytest_divergence.discovery.behaviours.hypothesis_tests import (
    ALPHA,
    NUM_REPEATS,
    sign_flip_test,
)

SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the candidate's answers that show a lead."""


def power_of_tests(profile: Profile, num_further: int = 0) -> list[PowerPoint]:
    """Return the share of leads that the test over prompts confirms, by share of answers.

    The lead is on as many prompts as a test takes, equally often on each, the reference never shows
    it, and it is the only real one of all that are tested: the first that Holm's correction judges,
    at the level over the number of tests, of which `num_further` are not of the search's leads.
    """
    num_prompts = profile.num_behaviour_prompts
    level = ALPHA / (profile.num_tested_leads + 1 + num_further)
    # Where the reference never shows it, the p-value depends on how many prompts do.
    fewest = next(
        (count for count in range(num_prompts + 1) if sign_flip_test([(1, 0)] * count) <= level),
        num_prompts + 1,
    )
    return [
        PowerPoint(
            share=share,
            power=float(
                binom.sf(fewest - 1, num_prompts, 1 - (1 - share) ** NUM_REPEATS["triggered"])
            ),
        )
        for share in SHARES
    ]
