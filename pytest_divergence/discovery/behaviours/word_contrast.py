"""Words that tell some texts from others: each is said in far more of them, beyond chance.

Knows no list of words: function words fall out because all texts have them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.stats import hypergeom

from pytest_divergence.discovery.behaviours.ngrams import spaced_words

MIN_TEXTS = 2
MIN_SHARE = 0.2
"""Share of the texts that hold a word, at least."""
MIN_RATIO = 4.0
"""Times that a word's share of the texts must be its share of the others, at least."""
LEVEL = 0.05
"""P-value of Fisher's exact test, corrected for the number of words, at most."""
MAX_LENGTH = 40
"""Characters of a word; longer ones are data."""
NUM_WORDS = 4


def telling_words(showing: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return up to four words of the texts `showing` something, the least likely by chance first.

    A text counts once for a word, however often it says it. Of words in equally many texts long
    ones come first: they say more.
    """
    held, elsewhere = _num_texts(showing), _num_texts(others)
    least = max(MIN_TEXTS, MIN_SHARE * len(showing))
    words = sorted(word for word in held if held[word] >= least and len(word) <= MAX_LENGTH)
    counts = np.array([held[word] for word in words])
    all_counts = counts + [elsewhere[word] for word in words]
    num_texts = len(showing) + len(others)
    chances = np.atleast_1d(hypergeom.logsf(counts - 1, num_texts, all_counts, len(showing)))
    limit = np.log(LEVEL / max(1, len(words)))
    ranked = sorted(zip(chances, (-len(word) for word in words), words, strict=True))
    return [
        word
        for chance, _, word in ranked
        if chance <= limit
        and held[word] * len(others) >= MIN_RATIO * elsewhere[word] * len(showing)
    ][:NUM_WORDS]


def _num_texts(texts: Sequence[str]) -> Counter[str]:
    """Return the number of texts that hold each word."""
    return Counter(word for text in texts for word in set(spaced_words(text).split()))
