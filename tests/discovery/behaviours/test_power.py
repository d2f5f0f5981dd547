"""The power of the tests of leads is that of the tests themselves."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_divergence.core.settings import PROFILES
from pytest_divergence.discovery.behaviours.hypothesis_tests import (
    ALPHA,
    NUM_REPEATS,
    holm,
    sign_flip_test,
)
from pytest_divergence.discovery.behaviours.power import SHARES, power_of_tests


@pytest.mark.parametrize("name", ["smoke", "default"])
def test_it_is_the_share_of_real_leads_that_are_confirmed(name: str) -> None:
    profile, repeats, num_leads = PROFILES[name], NUM_REPEATS["triggered"], 400
    rng = np.random.default_rng(0)

    points = power_of_tests(profile)
    assert [point.share for point in points] == list(SHARES)
    for point in points:
        shown = rng.binomial(repeats, point.share, size=(num_leads, profile.num_behaviour_prompts))
        p_values = [sign_flip_test([(int(count), 0) for count in counts]) for counts in shown]
        others = [1.0] * profile.num_tested_leads
        confirmed = [holm([p_value, *others])[0] <= ALPHA for p_value in p_values]
        spread = (point.power * (1 - point.power) / num_leads) ** 0.5
        assert np.mean(confirmed) == pytest.approx(point.power, abs=3 * spread + 1e-9)


def test_too_few_prompts_confirm_nothing() -> None:
    few = PROFILES["smoke"].model_copy(update={"num_behaviour_prompts": 6})

    assert {point.power for point in power_of_tests(few)} == {0.0}
