"""Tests of whether sampled answers come from one distribution, where only their texts are known.

A kernel two-sample test (Gretton et al. 2012, "A kernel two-sample test", JMLR 13), with answers
exchanged between the models at random within each prompt, as in Gao et al. 2025, "Model equality
testing" (ICLR). Nothing here is in nats.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
NUM_EXCHANGES = 9_999
"""Random exchanges that a p-value is made of, at least."""
MIN_BEYOND = 20
"""Exchanges that lie beyond a level on average: fewer would make a p-value at it a guess."""
POWER = 0.8
NUM_TRIALS = 50
"""Simulated sets of answers by which it is known what a test would have seen."""
MIN_TRIAL_EXCHANGES = 499
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the candidate's answers that are tried."""
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class TextTest:
    """The result of a test on one prompt's answers, or on those to many prompts."""

    p_value: float
    level: float
    """P-value up to which the answers differ."""
    num_answers: int
    """Answers of each model to a prompt, the most."""
    detectable: float | None = None
    """Share of the candidate's answers: had so many said one other thing, 4 of 5 such tests would
    have seen it. None if not even all would do, or if the answers differ."""

    @property
    def differs(self) -> bool:
        """Whether the answers differ."""
        return self.p_value <= self.level


@dataclass(frozen=True)
class _Pool:
    """Similarities of all answers to a prompt; the reference's come first."""

    similarities: Matrix
    num_first: int


def compare_answers(
    answers: Sequence[tuple[Sequence[str], Sequence[str]]],
    *,
    level: float,
    seed: int,
    tells_power: bool = True,
) -> TextTest:
    """Test whether the candidate's answers differ from the reference's, over all prompts.

    `answers` are the reference's and the candidate's to each prompt, at least two of each. Each
    prompt's statistic, the squared maximum mean discrepancy, counts in units of its own standard
    deviation under exchange. What would have been seen takes most of the time: leave it out with
    `tells_power`. Raises `ValueError` for fewer.
    """
    if not answers or min(min(map(len, both)) for both in answers) < 2:
        raise ValueError("each prompt needs at least two answers of each model")
    pools = [_Pool(similarities([*first, *second]), len(first)) for first, second in answers]
    num_exchanges = max(NUM_EXCHANGES, math.ceil(MIN_BEYOND / level))
    p_value = _p_value(pools, num_exchanges, np.random.default_rng(seed))
    num_answers = max(len(both[1]) for both in answers)
    if p_value <= level or not tells_power:
        return TextTest(p_value, level, num_answers)
    return TextTest(p_value, level, num_answers, _detectable(pools, level, seed))


def similarities(texts: Sequence[str]) -> Matrix:
    """Return how alike texts are, from 0 to 1: (N, N).

    That is the cosine of their sets of words and of pairs of words, and a text is wholly like
    itself.
    """
    sets = [_grams(text) for text in texts]
    found = np.eye(len(sets))
    for row, first in enumerate(sets):
        for column, second in enumerate(sets[:row]):
            shared = len(first & second) / math.sqrt(len(first) * len(second))
            found[row, column] = found[column, row] = shared
    return found


def _grams(text: str) -> set[tuple[str, ...]]:
    words = ["", *WORD.findall(text.casefold()), ""]
    return {(word,) for word in words} | set(pairwise(words))


def _p_value(pools: Sequence[_Pool], num_exchanges: int, random: np.random.Generator) -> float:
    """Return the share of exchanges whose statistic is as large, the true sides counted as one."""
    total = np.zeros(num_exchanges + 1)
    for pool in pools:
        values = _discrepancies(pool, _exchanged(pool, num_exchanges, random))
        spread = float(values[1:].std())
        total += (values - values[1:].mean()) / spread if spread > 0 else 0.0
    return float((total >= total[0] - 1e-9).mean())


def _exchanged(pool: _Pool, count: int, random: np.random.Generator) -> Matrix:
    """Return which answers are taken as the reference's: as they are, then `count` times at random.

    (count + 1, N), of 0 and 1.
    """
    size = len(pool.similarities)
    sides = np.zeros((count + 1, size))
    sides[:, : pool.num_first] = 1
    sides[1:] = random.permuted(sides[1:], axis=1)
    return sides


def _discrepancies(pool: _Pool, sides: Matrix) -> Matrix:
    """Return the unbiased squared maximum mean discrepancy for each of the (B, N) sides: (B,)."""
    others = pool.similarities - np.eye(len(pool.similarities))
    first, second = pool.num_first, len(others) - pool.num_first
    with_first = sides @ others
    both = with_first.sum(1)  # first with all
    inner = (with_first * sides).sum(1)
    across = both - inner
    outer = others.sum() - inner - 2 * across
    found: Matrix = inner / (first * (first - 1)) + outer / (second * (second - 1))
    found -= 2 * across / (first * second)
    return found


def _detectable(pools: Sequence[_Pool], level: float, seed: int) -> float | None:
    """Return the smallest share of one other answer that would mostly be seen; None if none is.

    The candidate's answers are taken from all that there are, and the share of them is replaced by
    one answer that is like no other.
    """
    first = bisect_left(SHARES, POWER, key=lambda share: _power(pools, share, level, seed))
    return SHARES[first] if first < len(SHARES) else None


def _power(pools: Sequence[_Pool], share: float, level: float, seed: int) -> float:
    random = np.random.default_rng(seed)
    num_exchanges = max(MIN_TRIAL_EXCHANGES, math.ceil(2 / level))
    seen = 0
    for _ in range(NUM_TRIALS):
        changed = [_with_foreign(pool, share, random) for pool in pools]
        seen += _p_value(changed, num_exchanges, random) <= level
    return seen / NUM_TRIALS


def _with_foreign(pool: _Pool, share: float, random: np.random.Generator) -> _Pool:
    """Return the answers shuffled between the sides, and some of the candidate's replaced."""
    size = len(pool.similarities)
    order = random.permutation(size)
    found = pool.similarities[np.ix_(order, order)]
    foreign = np.arange(size) >= pool.num_first
    foreign &= random.random(size) < share
    found[foreign] = 0
    found[:, foreign] = 0
    found[np.ix_(foreign, foreign)] = 1
    np.fill_diagonal(found, 1)
    return _Pool(found, pool.num_first)
