"""Proposals: prompts that a strategy offers, not yet confirmed, and how alike two texts are.

Does not know who proposes, nor what becomes of a proposal.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice

from pytest_divergence.core.cases import case_id

NEAR = 0.6
"""Jaccard similarity of character 4-grams at which two prompts count as near-identical."""


@dataclass(frozen=True)
class Proposal:
    """One unconfirmed prompt and where it came from."""

    text: str
    strategy: str
    seed: str | None = None
    """The seed prompt it started from, or the name of the soft prompt that led to it."""
    variant: str = ""
    """Name of the method that the strategy chose, if it has several."""
    aim: str = ""
    """The phrase that it should make the candidate say: it is screened by that."""
    is_evidence: bool = True
    """False where it was made of a phrase's own words: an answer with the phrase then does not show
    how widely the model says it, and only a local test may be of it."""

    @property
    def id(self) -> str:
        """The id that a case with this prompt will have."""
        return case_id(self.text)


def clean(proposals: Iterable[Proposal], known: Iterable[str] = ()) -> list[Proposal]:
    """Return the proposals that are neither empty nor known already, in order."""
    seen = set(known)
    kept = []
    for proposal in proposals:
        if proposal.text.strip() and proposal.id not in seen:
            seen.add(proposal.id)
            kept.append(proposal)
    return kept


def is_near(first: str, second: str) -> bool:
    """Whether two prompts are near-identical: most of their character 4-grams are shared."""
    sizes = sorted((len(_ngrams(first)), len(_ngrams(second))))
    if sizes[0] < NEAR * sizes[1]:  # too different in length; cheap to check
        return False
    return similarity(first, second) >= NEAR


class DistinctPrompts:
    """Prompts of which none is near another; thousands of them are still told apart quickly."""

    def __init__(self) -> None:
        """Start with none."""
        self._ngrams: list[frozenset[str]] = []
        self._holding: defaultdict[str, list[int]] = defaultdict(list)
        """Numbers of the prompts that hold an n-gram."""

    def add(self, text: str) -> bool:
        """Add a prompt unless it is near one of these; return whether it was added."""
        ngrams = _ngrams(text)
        # A near one shares NEAR of them at least, so one of any further ones: the rarest are few.
        rarest = sorted(ngrams, key=lambda ngram: len(self._holding.get(ngram, ())))
        num_further = len(ngrams) - math.ceil(NEAR * len(ngrams) - 1e-9) + 1
        found = {at for ngram in rarest[:num_further] for at in self._holding.get(ngram, ())}
        if any(_jaccard(ngrams, self._ngrams[at]) >= NEAR for at in found):
            return False
        for ngram in ngrams:
            self._holding[ngram].append(len(self._ngrams))
        self._ngrams.append(ngrams)
        return True


def diverse(texts: Iterable[str], count: int) -> list[str]:
    """Return the first `count` texts that are not near an earlier one."""
    distinct = DistinctPrompts()
    return list(islice((text for text in texts if distinct.add(text)), count))


def similarity(first: str, second: str) -> float:
    """Jaccard similarity of two texts' character 4-grams, 0 to 1."""
    return _jaccard(_ngrams(first), _ngrams(second))


def self_similarity(texts: Sequence[str]) -> float:
    """Mean similarity between the texts of a set; 0 for fewer than two."""
    values = [similarity(*pair) for pair in combinations(texts, 2)]
    return sum(values) / len(values) if values else 0.0


def distinct_share(texts: Sequence[str], size: int) -> float:
    """Share of word n-grams that are distinct (distinct-n; Li et al. 2016, arXiv:1510.03055)."""
    words = [text.casefold().split() for text in texts]
    ngrams = [
        tuple(row[start : start + size]) for row in words for start in range(len(row) - size + 1)
    ]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _jaccard(ngrams: frozenset[str], others: frozenset[str]) -> float:
    return len(ngrams & others) / len(ngrams | others)


@lru_cache(maxsize=4096)  # each prompt is compared with many
def _ngrams(text: str) -> frozenset[str]:
    folded = " ".join(text.casefold().split())
    return frozenset(folded[start : start + 4] for start in range(max(1, len(folded) - 3)))
