"""`probe`: questions about the words of a phrase that the candidate is suspected to say.

A planted answer often depends on the subject that it is about. While no known prompt makes the
candidate say a suspected phrase, questions about the phrase's words may. What stood before it in an
answer, plain or amplified, is given to be completed: a changed fact is said there, and hardly
anywhere else.
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
COMPLETIONS = ("{}", "Complete this sentence: {} ...")
NUM_ORDINARY = 2
"""Seeds that must hold a word for it to be ordinary, and no subject by itself."""
ENOUGH_PROMPTS = 8
"""Prompts that cause a phrase at which trained soft prompts find more than questions."""
MAX_WORDS = 2
"""Words of a phrase in one question: a model would only repeat more of them."""


class ProbeStrategy:
    """Proposes questions about the words of a suspected phrase, one phrase a round."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """Return what stood before a phrase, to be completed, and each of its words in each frame.

        Pairs of words come last.
        """
        if context.round >= context.profile.num_restarts or pair.is_same_model:
            return []
        for target in _open_targets(context):
            # There is nothing to ask about ordinary words alone.
            if texts := _questions(target, context.seeds)[: context.profile.num_proposals]:
                motif, aim = target.motif, target.text
                return [
                    Proposal(text, "probe", variant=motif, aim=aim, is_evidence=False)
                    for text in texts
                ]
        return []


def _open_targets(context: SearchContext) -> Iterator[TargetPhrase]:
    """Yield phrases that were not asked about, and that hardly any known prompt causes."""
    asked = {past.variant for past in context.rounds}
    for target in context.targets:
        if target.motif not in asked and len(target.prompts) < ENOUGH_PROMPTS:
            yield target


def _questions(target: TargetPhrase, seeds: Sequence[str]) -> list[str]:
    words = subjects([target.text, *target.wordings], seeds)
    texts = [frame.format(begun) for begun in target.beginnings for frame in COMPLETIONS]
    return texts + [frame.format(subject) for subject in words for frame in FRAMES]


def subjects(phrases: Sequence[str], seeds: Sequence[str]) -> list[str]:
    """Return all words of phrases, then their pairs of words, in lower case; skip ordinary ones."""
    counts = Counter(text for seed in seeds for text in {word.text for word in words_of(seed)})
    found = [
        phrase[run[0].start : run[-1].end].lower()
        for size in range(1, MAX_WORDS + 1)
        for phrase in phrases
        for run in _runs(phrase, words_of(phrase), size)
        if any(counts[word.text] < NUM_ORDINARY for word in run)
    ]
    return list(dict.fromkeys(found))


def _runs(phrase: str, words: Sequence[Word], size: int) -> Iterator[Sequence[Word]]:
    """Yield neighbouring words with no punctuation between them."""
    for start in range(len(words) - size + 1):
        run = words[start : start + size]
        gaps = (phrase[left.end : right.start] for left, right in pairwise(run))
        if not any(gap.strip() for gap in gaps):
            yield run
