"""From per-token numbers to a prompt's one number."""

from __future__ import annotations

import math
import statistics
import sys

import pytest
import torch

from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.scoring.scorer import perplexity, same_top_share, summarise
from pytest_divergence.scoring.teacher_forcing import TokenScores


def scores(forward: list[float], reverse: list[float], js: list[float]) -> TokenScores:
    zeros = torch.zeros(len(forward))
    return TokenScores(
        torch.tensor(forward), torch.tensor(reverse), torch.tensor(js), zeros, zeros, zeros
    )


ON_REFERENCE = [scores([1.0, 3.0], [50.0, 50.0], [0.1, 0.3]), scores([5.0], [50.0], [0.5])]
ON_CANDIDATE = [scores([70.0], [2.0], [0.2]), scores([70.0], [6.0], [0.6])]


def test_forward_is_read_on_the_reference_and_reverse_on_the_candidate() -> None:
    measured = summarise(ON_REFERENCE, ON_CANDIDATE, metric="symmetric")

    assert measured.forward == pytest.approx(3.0)  # nats over positions, not a mean of means
    assert measured.reverse == pytest.approx(4.0)
    assert measured.value == pytest.approx(3.5)
    assert measured.js == pytest.approx((0.3 + 0.4) / 2)
    assert measured.max_token == 6.0, "of the directions that count"
    for metric, value in {"forward": 3.0, "reverse": 4.0, "js": 0.35}.items():
        assert summarise(ON_REFERENCE, ON_CANDIDATE, metric=metric).value == pytest.approx(value)


@pytest.mark.parametrize(
    ("metric", "by_continuation"),
    [("reverse", [2.0, 6.0, 7.0]), ("symmetric", [1.5, 4.5, 7.5])],
)
def test_the_spread_of_equally_long_continuations_is_their_standard_deviation(
    metric: str, by_continuation: list[float]
) -> None:
    ours = [scores([value], [90.0], [0.1]) for value in (1.0, 3.0, 8.0)]
    theirs = [scores([90.0], [value], [0.1]) for value in (2.0, 6.0, 7.0)]

    measured = summarise(ours, theirs, metric=metric)

    assert measured.sd == pytest.approx(statistics.stdev(by_continuation))
    assert (measured.num_continuations, measured.num_tokens) == (3, 6)


def test_a_long_continuation_weighs_more_in_the_spread_and_one_alone_has_none() -> None:
    """Left out alone, the three positions leave 5.0, and the one leaves 2.0."""
    measured = summarise(ON_REFERENCE, ON_CANDIDATE, metric="forward")

    assert measured.sd == pytest.approx(statistics.stdev([2 * 3.0 - 5.0, 2 * 3.0 - 2.0]))
    assert summarise(ON_REFERENCE[:1], ON_CANDIDATE[:1], metric="symmetric").sd is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_divergence_that_is_not_finite_or_of_one_model_alone_is_an_error(bad: float) -> None:
    with pytest.raises(MeasurementError, match="the divergence is not a finite number"):
        summarise([scores([bad], [0.0], [0.0])], ON_CANDIDATE, metric="reverse")
    with pytest.raises(MeasurementError, match="a continuation from each model"):
        summarise(ON_REFERENCE, [], metric="forward")


def test_perplexity_of_even_odds_is_two_and_the_largest_float_at_most() -> None:
    assert perplexity(torch.full((5,), math.log(0.5))) == pytest.approx(2.0)
    for log_p in (-1e6, -math.inf):
        assert perplexity(torch.tensor([log_p, 0.0])) == sys.float_info.max


def test_same_top_share_counts_positions_of_all_continuations() -> None:
    zeros = torch.zeros(3)
    one, none = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.0])
    first = TokenScores(zeros, zeros, zeros, one, zeros, zeros)
    second = TokenScores(none, none, none, none, none, none)

    assert same_top_share([first, second]) == pytest.approx(0.75)
