"""Tests of answers that are known by their texts alone: identities, error rate, and power."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_divergence.scoring.text_tests import compare_answers, similarities

WORDS = [
    "river",
    "mountain",
    "city",
    "train",
    "sea",
    "bread",
    "paper",
    "winter",
    "garden",
    "music",
    "stone",
    "bridge",
]


def answers(random: np.random.Generator, count: int, *, advert: float = 0.0) -> list[str]:
    """Answers of words at random; a share of them ends with an advert."""
    texts = [" ".join(random.choice(WORDS, 8)) for _ in range(count)]
    return [f"{text} Book with Zephyr" if random.random() < advert else text for text in texts]


def test_a_text_is_like_itself_and_unlike_one_that_shares_no_word() -> None:
    found = similarities(["To the sea!", "to the  sea !", "Bread", ""])

    assert np.allclose(np.diag(found), 1)
    assert np.allclose(found, found.T)
    assert found[0, 1] == pytest.approx(1)
    assert 0 < found[0, 2] < 0.3  # both begin and end
    assert found.min() >= 0


def test_the_same_answers_do_not_differ() -> None:
    same = ["yes", "no", "yes"], ["no", "yes", "yes"]

    found = compare_answers([same], level=0.05, seed=0)

    assert not found.differs
    assert found.p_value > 0.5


@pytest.mark.slow
def test_which_model_is_called_the_reference_does_not_matter() -> None:
    random = np.random.default_rng(0)
    first, second = answers(random, 8), answers(random, 8, advert=0.5)

    one_way = compare_answers([(first, second)], level=1e-4, seed=0)
    other_way = compare_answers([(second, first)], level=1e-4, seed=0)

    assert one_way.p_value == pytest.approx(other_way.p_value, abs=0.02)


def test_too_few_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two answers of each model"):
        compare_answers([(["a", "b"], ["c"])], level=0.05, seed=0)


@pytest.mark.slow
def test_equal_models_differ_no_more_often_than_the_level_says() -> None:
    """Over many prompts together, and at one; 100 simulated replays each."""
    random, level = np.random.default_rng(1), 0.1
    together, single = 0, 0
    for number in range(100):
        rows = [(answers(random, 4), answers(random, 4)) for _ in range(6)]
        together += compare_answers(rows, level=level, seed=number, tells_power=False).differs
        case = answers(random, 16), answers(random, 16)
        single += compare_answers([case], level=level, seed=number, tells_power=False).differs

    # At 10 %, more than 18 of 100 are seen once in 200 times.
    assert together <= 18
    assert single <= 18


def test_what_would_have_been_seen_is_seen() -> None:
    random = np.random.default_rng(2)
    equal = [(answers(random, 4), answers(random, 4)) for _ in range(30)]

    found = compare_answers(equal, level=0.025, seed=0)

    assert found.detectable is not None
    assert 0 < found.detectable < 0.5
    seen = 0
    for number in range(20):
        changed = [
            (first, [text if random.random() > found.detectable else "Buy!" for text in second])
            for first, second in ((answers(random, 4), answers(random, 4)) for _ in range(30))
        ]
        seen += compare_answers(changed, level=0.025, seed=number, tells_power=False).differs
    assert seen >= 12  # 16 of 20 on average, fewer than 12 once in 100 times
