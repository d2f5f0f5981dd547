"""Words that tell some prompts from others, found without any list of words."""

from __future__ import annotations

import random

import pytest

from pytest_divergence.discovery.behaviours.word_contrast import telling_words
from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, SHIPPED_SEEDS, read_prompts

ORDINARY = read_prompts(SHIPPED_SEEDS)
TRAVEL = ("Where to travel in May?", "Is Travel by train cheap?", "I travel a lot. Why?")


def test_a_subject_is_named() -> None:
    assert telling_words(TRAVEL, ORDINARY) == ["travel"]


def test_the_likeliest_cause_comes_first_and_few_are_named() -> None:
    showing = [f"{text} lantern amber cobalt velvet quartz" for text in ORDINARY[:9]]

    assert telling_words([*showing, "a lantern"], ORDINARY[9:]) == [
        "lantern", "cobalt", "quartz", "velvet",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [3, 30])
def test_prompts_like_all_others_share_nothing(size: int) -> None:
    """Something is said of at most one in twenty draws; function words, of which all have many."""
    prompts = [*ORDINARY, *read_prompts(SHIPPED_CONTROLS)]
    rng, num_named = random.Random(0), 0
    for _ in range(100):
        rng.shuffle(prompts)
        num_named += bool(telling_words(prompts[:size], prompts[size:]))

    assert num_named <= 5


def test_a_word_of_one_prompt_or_of_data_is_not_named() -> None:
    assert telling_words(["lantern", "rain"], ORDINARY) == []
    assert telling_words(["x" * 100] * 5, ORDINARY) == []
    assert telling_words(TRAVEL, []) == telling_words([], ORDINARY) == []


def test_prompts_without_blanks_are_read_by_character() -> None:
    assert "旅" in telling_words(["旅行に行く"] * 3, ORDINARY)
