"""Words that tell some texts from others: each is said in far more of them, beyond chance.

Knows no list of words: function words fall out because other texts have them too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import gammaln
from scipy.stats import hypergeom

from pytest_divergence.discovery.behaviours.ngrams import spaced_words

MIN_TEXTS = 2
MIN_SHARE = 0.1
"""Share of the texts that hold a word, at least."""
MIN_RATIO = 4.0
"""Times that a word's share of the texts must be its share of the others, at least."""
LEVEL = 0.05
"""P-value of Fisher's exact test at most, corrected for all words that could have reached it."""
MAX_LENGTH = 40
"""Characters of a word; longer ones are data."""
NUM_WORDS = 4


def telling_words(showing: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return up to four words of the texts `showing` something, that of the largest odds first.

    A text counts once for a word, however often it says it. The odds are those of a text that says
    the word to be one of these; of words with equal odds long ones come first, which say more.
    """
    held, elsewhere = _num_texts(showing), _num_texts(others)
    num_showing, num_others = len(showing), len(others)
    num_texts = num_showing + num_others
    limit = _limit((held + elsewhere).values(), num_showing, num_texts)
    told = []
    for word, count in held.items():
        other_count = elsewhere[word]
        if (
            len(word) <= MAX_LENGTH
            and count >= max(MIN_TEXTS, MIN_SHARE * num_showing)
            and count * num_others >= MIN_RATIO * other_count * num_showing
            and hypergeom.logsf(count - 1, num_texts, count + other_count, num_showing) <= limit
        ):
            # Half a text more, so that a word that no other text says has odds too.
            odds = (count + 0.5) / (num_showing - count + 0.5)
            other_odds = (other_count + 0.5) / (num_others - other_count + 0.5)
            told.append((-odds / other_odds, -len(word), word))
    return [word for _, _, word in sorted(told)[:NUM_WORDS]]


def _limit(totals: Iterable[int], num_showing: int, num_texts: int) -> float:
    """Return the log of the p-value that a word may have, by Tarone's correction.

    `totals` are the texts that hold each word. A word of few texts cannot reach a small p-value
    even if all of them are among the showing ones, so it is no try.
    """
    total = np.fromiter(totals, dtype=float)
    fewer, more = np.minimum(total, num_showing), np.maximum(total, num_showing)
    least = _log_choose(more, fewer) - _log_choose(num_texts, fewer)
    least.sort()
    num_tries = 1
    while np.searchsorted(least, math.log(LEVEL / num_tries), side="right") > num_tries:
        num_tries += 1
    return math.log(LEVEL / num_tries)


def _log_choose(size: np.ndarray | int, count: np.ndarray) -> np.ndarray:
    found: np.ndarray = gammaln(size + 1) - gammaln(count + 1) - gammaln(size - count + 1)
    return found


def _num_texts(texts: Sequence[str]) -> Counter[str]:
    """Return the number of texts that hold each word."""
    return Counter(word for text in texts for word in set(spaced_words(text).split()))
