"""What contexts cost: nothing without any, and about what looking at them takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_divergence.core.cases import Message
from pytest_divergence.core.contexts import Context
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery.contexts.context_costs import context_costs
from pytest_divergence.discovery.contexts.context_files import (
    SHIPPED_CONTEXTS,
    contexts_of,
    read_contexts,
)
from pytest_divergence.discovery.cost import estimate_seconds
from pytest_divergence.discovery.plan import SearchPlan, identify_pair
from pytest_divergence.models.pair import ModelPair

SMOKE, DEFAULT = PROFILES["smoke"], PROFILES["default"]
SHIPPED = read_contexts(SHIPPED_CONTEXTS)

Planned = Callable[..., SearchPlan]


@pytest.fixture
def planned(pair: ModelPair) -> Planned:
    def plan(**changes: str) -> SearchPlan:
        return SearchPlan.of(Settings.model_validate(changes), identify_pair(pair), {})

    return plan


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "contexts.txt"
    path.write_text("Be kind.\nBe brief.\n", "utf-8")
    return str(path)


def test_without_contexts_nothing_is_reserved(planned: Planned) -> None:
    plan = planned(profile="smoke")

    assert context_costs([], SMOKE) == (0, 0)
    assert plan.profile == SMOKE
    assert plan.contexts == contexts_of(None, 0)


def test_more_and_longer_contexts_cost_more_but_the_shipped_ones_no_third_of_a_search(
    planned: Planned,
) -> None:
    long = Context(name="x", messages=(Message(role="system", content="word " * 400),))
    few, many = context_costs(SHIPPED[:3], DEFAULT), context_costs(SHIPPED, DEFAULT)
    longer = context_costs([long, *SHIPPED[1:3]], DEFAULT)
    profile = planned(profile="default").profile

    assert many.finding > 3 * few.finding
    assert longer.finding > few.finding
    assert longer.testing > few.testing
    assert 0 < profile.budget_tokens - DEFAULT.budget_tokens < DEFAULT.budget_tokens / 3


@pytest.mark.parametrize("name", ["smoke", "default"])
def test_contexts_come_on_top_of_the_budget(planned: Planned, file: str, name: str) -> None:
    """A search for other behaviours is as long with contexts as without."""
    given, before = planned(profile=name, contexts=file), PROFILES[name]
    profile = given.profile
    finding, testing = context_costs(given.contexts.all, before)

    assert len(given.contexts.all) == 2 + before.num_contexts
    assert profile.reserved_tokens == before.reserved_tokens + testing
    assert (profile.context_tokens, profile.context_test_tokens) == (finding, testing)
    assert profile.budget_tokens == before.budget_tokens + finding + testing


def test_a_budget_without_room_for_them_says_what_they_need(planned: Planned, file: str) -> None:
    profile = planned(profile="smoke", contexts=file).profile
    calibration, reserved = SMOKE.calibration_tokens, profile.reserved_tokens
    least = calibration + profile.context_tokens + reserved

    kept = planned(profile="smoke", contexts=file, budget="60000").profile
    assert kept.budget_tokens == 60_000, "a budget in tokens stays"
    with pytest.raises(SettingsError) as caught:
        planned(profile="smoke", contexts=file, budget=str(least - 1))

    assert str(caught.value) == (
        f"--divergence-budget={least - 1} is too small: profile smoke needs at least {least} "
        f"forwarded tokens, {calibration} to calibrate, {profile.context_tokens} to look at 2 "
        f"contexts and {reserved} to test leads and confirm cases; raise it"
    )


def test_another_context_is_another_search_of_the_same_calibration(
    planned: Planned, tmp_path: Path, file: str
) -> None:
    plain, under = planned(profile="smoke"), planned(profile="smoke", contexts=file)
    (tmp_path / "contexts.txt").write_text("Be kind.\nBe quick.\n", "utf-8")
    other = planned(profile="smoke", contexts=file)

    assert len({plain.key, under.key, other.key}) == 3
    assert plain.calibration.key == under.calibration.key == other.calibration.key


def test_a_budget_in_seconds_does_not_count_contexts() -> None:
    under = SMOKE.model_copy(update={"context_tokens": 2_000, "context_test_tokens": 1_000})
    without, with_them = (
        estimate_seconds(profile, 1000.0, budget_seconds=5) for profile in (SMOKE, under)
    )

    assert with_them - without == pytest.approx(3.0)
