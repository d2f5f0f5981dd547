"""The next round of a search, by what the rounds so far took."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_divergence.discovery.round_choice import CORE, Budget, Choice, Turn
from pytest_divergence.discovery.strategies.protocol import Round

OWED = 8_000


def choice(
    core: Sequence[Round], *, others: Sequence[Round] = (), pending: Sequence[Round] = ()
) -> Choice:
    """Soft prompts with these rounds, and these under way."""
    return Choice(
        {CORE: core, "seeds": others},
        [(CORE, each) for each in pending],
        sum(each.tokens_forwarded for each in core),
    )


def turn(made: Choice, left: int) -> Turn | None:
    return made.turn([CORE], Budget(left, share=OWED, least=OWED))


@pytest.mark.parametrize(
    ("left", "part"), [(10_000, 1.0), (3_000, 0.5), (2_000, 1 / 3), (-500, 1 / 3)]
)
def test_a_round_of_soft_prompts_is_as_large_as_what_is_left_or_lacking(
    left: int, part: float
) -> None:
    assert turn(choice([Round("free", 0, 6_000)]), left) == Turn(CORE, part)


@pytest.mark.parametrize(("left", "part"), [(1_800, 0.3), (-700, 0.25)])
def test_a_whole_round_costs_what_a_part_of_one_did_in_proportion(left: int, part: float) -> None:
    rounds = [Round("free", 0, 6_000), Round("simplex", 0, 1_500, part=0.25)]

    assert turn(choice(rounds), left) == Turn(CORE, part)


def test_what_soft_prompts_have_had_is_owed_no_more() -> None:
    assert turn(choice([Round("free", 0, OWED)]), 500) is None


def test_while_the_first_round_is_under_way_no_other_of_unknown_cost_begins() -> None:
    made = choice([], others=[Round("", 0, 3_000)], pending=[Round("free", 0, 3_000)])

    assert turn(made, 4_000) is None


def test_what_soft_prompts_do_not_want_goes_to_the_others() -> None:
    made = choice([Round("free", 0, 100)], others=[Round("", 0, 3_000)])
    budget = Budget(4_000, share=OWED, least=OWED)

    assert made.turn([CORE, "seeds"], budget) == Turn(CORE)
    assert made.turn(["seeds"], budget) == Turn("seeds")
