"""Proposals: prompts that a strategy offers, not yet confirmed, and how alike two texts are.

Does not know who proposes, nor what becomes of a proposal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from pytest_divergence.core.cases import case_id

NEAR = 0.6
"""Jaccard similarity of character 4-grams from which two prompts say the same."""


@dataclass(frozen=True)
class Proposal:
    """One unconfirmed prompt and where it came from."""

    text: str
    strategy: str
    seed: str | None = None
    """The seed prompt it started from, or the name of the soft prompt that led to it."""
    variant: str = ""
    """Which way of working the strategy had chosen."""
    aim: str = ""
    """A phrase that it was written to make the candidate say: it is screened by that."""
    is_evidence: bool = True
    """False where it was made of a phrase's own words: that a model says the phrase then does not
    tell how widely it says it, so no behaviour is tested on it."""

    @property
    def id(self) -> str:
        """The id that a case with this prompt will have."""
        return case_id(self.text)


def clean(proposals: Iterable[Proposal], known: Iterable[str] = ()) -> list[Proposal]:
    """Proposals that are neither empty nor there already, in order."""
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
    if sizes[0] < NEAR * sizes[1]:  # too unlike in length, and cheap to tell
        return False
    return similarity(first, second) >= NEAR


def diverse(texts: Iterable[str], count: int) -> list[str]:
    """The first `count` texts that are near no earlier one of them."""
    chosen: list[str] = []
    for text in texts:
        if len(chosen) == count:
            break
        if not any(is_near(text, one) for one in chosen):
            chosen.append(text)
    return chosen


def similarity(first: str, second: str) -> float:
    """Jaccard similarity of two texts' character 4-grams, 0 to 1."""
    ours, theirs = _ngrams(first), _ngrams(second)
    return len(ours & theirs) / len(ours | theirs)


def self_similarity(texts: Sequence[str]) -> float:
    """Mean similarity of two different texts of a set; 0 where there are not two."""
    values = [similarity(*pair) for pair in combinations(texts, 2)]
    return sum(values) / len(values) if values else 0.0


def distinct_share(texts: Sequence[str], size: int) -> float:
    """Different word n-grams over all of them (distinct-n; Li et al. 2016, arXiv:1510.03055)."""
    words = [text.casefold().split() for text in texts]
    ngrams = [
        tuple(row[start : start + size]) for row in words for start in range(len(row) - size + 1)
    ]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


@lru_cache(maxsize=4096)  # each prompt is compared with many
def _ngrams(text: str) -> frozenset[str]:
    folded = " ".join(text.casefold().split())
    return frozenset(folded[start : start + 4] for start in range(max(1, len(folded) - 3)))
