"""Suspects: what may be a behaviour, from phrases and traits of both models' answers.

Knows how suspects are found in answers that are there already, and whether an answer shows one.
What is tested is confirmed elsewhere (`pytest_divergence.discovery.behaviours.hypothesis_tests`).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pytest_divergence.core.behaviours import Behaviour, behaviour_id
from pytest_divergence.discovery.behaviours.answers import Answer, AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.ngrams import (
    MAX_REFERENCE_SHARE,
    MIN_PROMPTS,
    Gram,
    Phrase,
    Places,
    find,
    has_motif,
    ngram_of,
    recurring_phrases,
    stands_at,
    words_of,
)
from pytest_divergence.discovery.behaviours.traits import TRAITS

GENERAL_RATE = 0.2
"""Share of controls from which a behaviour is a new style."""
MIN_PEAK = math.log(20)
"""Nats: a phrase is telling where, at one of its tokens at least, the candidate is 20 times as
sure as the reference. Ordinary fine-tunes shift many tokens a little; this asks for one leap."""
ORDINARY_SHARE = 0.05
"""Of the reference's answers: a word of so many says nothing of a difference."""


@dataclass(frozen=True)
class Hypothesis:
    """A phrase or a trait of the candidate's answers, and the prompts that show it."""

    name: str
    """For people."""
    motifs: tuple[str, ...] = ()
    trait: str | None = None
    prompts: tuple[str, ...] = ()
    """Distinct prompts on which the candidate shows it and the reference does not."""

    @property
    def id(self) -> str:
        """The id of the behaviour that it may become."""
        return behaviour_id(self.motifs or self.trait or "")

    def shows(self, prompt: str, own: str, other: str) -> bool:
        """Whether an answer shows it, beside the other model's answer to the same prompt."""
        return shows(self.motifs, self.trait, prompt, own, other)

    def is_shown_on(self, one: AnsweredPrompt) -> bool:
        """Whether the candidate shows it on a prompt, and neither the reference nor the prompt."""
        if self.trait is None:
            return has_motif(self.motifs, one.candidate.text) and not (
                has_motif(self.motifs, one.reference) or has_motif(self.motifs, one.prompt)
            )
        return self.shows(one.prompt, one.candidate.text, one.reference) and not self.shows(
            one.prompt, one.reference, one.candidate.text
        )

    def is_shown_by_reference(self, one: AnsweredPrompt) -> bool:
        """Whether the reference shows it, and neither the candidate nor the prompt."""
        if self.trait is None:
            return has_motif(self.motifs, one.reference) and not (
                has_motif(self.motifs, one.candidate.text) or has_motif(self.motifs, one.prompt)
            )
        return self.shows(one.prompt, one.reference, one.candidate.text) and not self.shows(
            one.prompt, one.candidate.text, one.reference
        )

    def place(self, answer: Answer) -> tuple[int, int]:
        """The characters of an answer that show it: the phrase as far as it is there.

        For a trait, the whole answer.
        """
        words, quoted = words_of(answer.text), ngram_of(self.name)
        for motif in map(ngram_of, self.motifs):
            starts = (i for i in range(len(words)) if stands_at(i, motif, words))
            if (start := next(starts, None)) is not None:
                end = start + len(motif)
                inside = next(
                    (i for i in range(len(quoted)) if quoted[i:][: end - start] == motif), None
                )
                if inside is not None:
                    while start > 0 and inside > 0 and words[start - 1].text == quoted[inside - 1]:
                        start, inside = start - 1, inside - 1
                return words[start].start, words[end - 1].end
        return 0, len(answer.text)

    def is_telling(self, answers: Sequence[Answer]) -> bool:
        """Whether the reference would hardly write this; a trait has no phrase to tell by."""
        if self.trait is not None:
            return True
        return _median_peak([(answer, self.place(answer)) for answer in answers]) >= MIN_PEAK


def shows(motifs: Sequence[str], trait: str | None, prompt: str, own: str, other: str) -> bool:
    """Whether an answer holds one of the motifs, or departs as the trait says."""
    if trait is not None:
        return TRAITS[trait].shows(prompt, own, other)
    return has_motif(motifs, own)


def behaviour_shows(behaviour: Behaviour, prompt: str, own: str, other: str) -> bool:
    """Whether an answer shows a named behaviour, beside the other model's to the same prompt."""
    return shows(behaviour.motifs, behaviour.trait, prompt, own, other)


def shown_behaviour(
    behaviours: Iterable[Behaviour], prompt: str, own: str, other: str
) -> str | None:
    """The id of the first of the behaviours that an answer shows; None where it shows none."""
    return next((one.id for one in behaviours if behaviour_shows(one, prompt, own, other)), None)


def shows_in_part(behaviour: Behaviour, one: AnsweredPrompt) -> bool:
    """Whether the candidate leaps to a motif of a named phrase, or to two words of it in a row.

    That is, what stands in neither the prompt nor the reference's answer is there, and at one of
    its tokens the candidate is 20 times as sure as the reference.
    """
    if behaviour.trait is not None:
        return False
    quoted = ngram_of(behaviour.name)
    ngrams = {*pairwise(quoted), *map(ngram_of, behaviour.motifs)}
    places = (_found(ngram, one) for ngram in ngrams)
    return any(one.candidate.peak(*place) >= MIN_PEAK for place in places if place is not None)


def hypotheses_in(
    answered: Sequence[AnsweredPrompt], *, without: Sequence[str] = ()
) -> list[Hypothesis]:
    """Phrases first, then traits, each shown by several prompts; the most frequent first.

    Phrases `without` are known already, and what stands beside them is looked at.
    """

    def is_telling(places: Places) -> bool:
        found = [(answered[index].candidate, place) for index, place in places.items()]
        return _median_peak(found) >= MIN_PEAK

    phrases = recurring_phrases(
        [one.prompt for one in answered],
        [one.candidate.text for one in answered],
        [one.reference for one in answered],
        is_telling=is_telling,
        without=without,
    )
    hypotheses = [as_suspect(phrase, answered) for phrase in phrases]
    return [one for one in (*hypotheses, *_traits_in(answered)) if len(one.prompts) >= MIN_PROMPTS]


def is_alike(first: Hypothesis, second: Hypothesis) -> bool:
    """Whether two suspects are one: the same trait, or a motif of one stands in the other."""
    if first.trait is not None or second.trait is not None:
        return first.trait == second.trait
    return has_motif(first.motifs, " ".join((second.name, *second.motifs))) or has_motif(
        second.motifs, " ".join((first.name, *first.motifs))
    )


def is_wording_of(hypothesis: Hypothesis, known: Hypothesis, ordinary: Collection[str]) -> bool:
    """Whether a phrase has no word of its own: all that are not `ordinary` stand in a known one."""
    if hypothesis.trait is not None:
        return False
    telling = _vocabulary(hypothesis) - set(ordinary)
    return bool(telling) and telling <= _vocabulary(known)


def ordinary_words(answered: Sequence[AnsweredPrompt]) -> set[str]:
    """Words that the reference says in many of its answers."""
    counts = Counter(word for one in answered for word in set(ngram_of(one.reference)))
    return {word for word, count in counts.items() if count >= ORDINARY_SHARE * len(answered)}


def log_ratio_of(hypothesis: Hypothesis, answer: Answer) -> float:
    """ln p(candidate) - ln p(reference) of what shows it in an answer, in nats."""
    return sum(answer.log_ratios[index] for index in answer.tokens_of(*hypothesis.place(answer)))


def as_suspect(phrase: Phrase, answered: Sequence[AnsweredPrompt]) -> Hypothesis:
    """A phrase as a suspect, with the prompts that show it to the candidate only."""
    hypothesis = Hypothesis(phrase.quote, phrase.motifs)
    shown = tuple(one.prompt for one in answered if hypothesis.is_shown_on(one))
    return replace(hypothesis, prompts=shown)


def control_rate(hypothesis: Hypothesis, evidence: AnsweredPrompts) -> float:
    """Share of the controls on which the candidate shows it."""
    controls = evidence.controls
    shown = sum(hypothesis.shows(one.prompt, one.candidate.text, one.reference) for one in controls)
    return shown / len(controls) if controls else 0.0


def _traits_in(answered: Sequence[AnsweredPrompt]) -> list[Hypothesis]:
    found = []
    for key, trait in TRAITS.items():
        hypothesis = Hypothesis(trait.name, trait=key)
        shown = tuple(one.prompt for one in answered if hypothesis.is_shown_on(one))
        reverse = sum(hypothesis.is_shown_by_reference(one) for one in answered)
        if reverse <= MAX_REFERENCE_SHARE * len(shown):
            found.append(replace(hypothesis, prompts=shown))
    return sorted(found, key=lambda one: -len(one.prompts))


def _found(ngram: Gram, one: AnsweredPrompt) -> tuple[int, int] | None:
    """The characters of the candidate's answer where it is, if the others have nothing of it."""
    has_others = any(find(ngram, words_of(text)) for text in (one.prompt, one.reference))
    return None if has_others else find(ngram, words_of(one.candidate.text))


def _vocabulary(hypothesis: Hypothesis) -> set[str]:
    return {word for text in (hypothesis.name, *hypothesis.motifs) for word in ngram_of(text)}


def _median_peak(found: Sequence[tuple[Answer, tuple[int, int]]]) -> float:
    return statistics.median(answer.peak(*place) for answer, place in found) if found else 0.0
