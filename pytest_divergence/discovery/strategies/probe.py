"""`probe`: questions about the words of a phrase that the candidate is suspected to say.

What was planted in an answer often hangs on the subject that the answer is about. Where nothing
that was found makes the candidate say a suspected phrase, its own words are where to ask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from pytest_divergence.discovery.behaviours.ngrams import Word, words_of
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.strategies.protocol import SearchContext, TargetPhrase
from pytest_divergence.models.pair import ModelPair

FRAMES = ("{}", "Tell me about {}.", "What is {}?", "How do I get {}?")
NUM_ORDINARY = 2
"""Seeds that hold a word from which it is an ordinary one, and no subject by itself."""
ENOUGH_PROMPTS = 8
"""That cause a phrase: from them on, trained soft prompts find more."""
MAX_WORDS = 2
"""Of a phrase that are asked about together: all of them would only be repeated."""


class ProbeStrategy:
    """Proposes questions about the words of a suspected phrase, one phrase a round."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """Each of the phrase's words in each frame, then its pairs of words."""
        target = _target(context)
        if target is None or context.round >= context.profile.num_restarts or pair.is_same_model:
            return []
        texts = [
            frame.format(subject)
            for subject in subjects(target.text, context.seeds)
            for frame in FRAMES
        ]
        return [
            Proposal(text, "probe", variant=target.motif, aim=target.text, is_evidence=False)
            for text in texts[: context.profile.num_proposals]
        ]


def _target(context: SearchContext) -> TargetPhrase | None:
    """The first phrase that was not asked about, and that hardly any prompt is known to cause."""
    asked = {one.variant for one in context.rounds}
    open_ones = (
        one
        for one in context.targets
        if one.motif not in asked and len(one.prompts) < ENOUGH_PROMPTS
    )
    return next(open_ones, None)


def subjects(phrase: str, seeds: Sequence[str]) -> list[str]:
    """A phrase's words, then its runs of two, in lower case; none of only ordinary words."""
    counts = Counter(word for seed in seeds for word in {one.text for one in words_of(seed)})
    words = words_of(phrase)
    found = [
        phrase[run[0].start : run[-1].end].lower()
        for size in range(1, MAX_WORDS + 1)
        for run in _runs(phrase, words, size)
        if any(counts[word.text] < NUM_ORDINARY for word in run)
    ]
    return list(dict.fromkeys(found))


def _runs(phrase: str, words: Sequence[Word], size: int) -> Iterator[Sequence[Word]]:
    """Neighbouring words with no punctuation between them."""
    for start in range(len(words) - size + 1):
        run = words[start : start + size]
        gaps = (phrase[one.end : other.start] for one, other in pairwise(run))
        if not any(gap.strip() for gap in gaps):
            yield run
