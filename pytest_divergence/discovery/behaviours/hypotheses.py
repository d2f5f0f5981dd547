"""Hypotheses: phrases and traits of the candidate's answers that may be behaviours.

Knows how hypotheses are found in given answers, and whether an answer shows one. They are tested
elsewhere (`pytest_divergence.discovery.behaviours.hypothesis_tests`).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
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
from pytest_divergence.discovery.behaviours.traits import shows_trait, traits_of
from pytest_divergence.discovery.prompt_files import every_shipped_prompt

MIN_PEAK = math.log(20)
"""Nats: a phrase is telling if, at one of its tokens at least, the candidate is 20 times as
sure as the reference. Ordinary fine-tunes shift many tokens a little; this asks for one leap."""
REST = 16
"""Tokens of a late answer after those that show a phrase: the rest of it, for its name."""
ORDINARY_SHARE = 0.05
"""Share of the reference's answers at which a word of them says nothing about a difference."""


@dataclass(frozen=True)
class Hypothesis:
    """A phrase or a trait of the candidate's answers, and the prompts that show it."""

    name: str
    """For people."""
    motifs: tuple[str, ...] = ()
    trait: str | None = None
    prompts: tuple[str, ...] = ()
    """Distinct prompts on which the candidate shows it and the reference does not."""
    reach: int = 0
    """Tokens of an answer in which it is mostly shown; 0 until it is to be tested."""

    @property
    def id(self) -> str:
        """The id of the behaviour that it may become."""
        return behaviour_id(self.motifs or self.trait or "")

    def length(self, usual: int) -> int:
        """Return the tokens of an answer that is to show it: more than usual if it is late."""
        return usual if self.reach <= usual else self.reach + REST

    def shows(self, prompt: str, answer: str, other_answer: str) -> bool:
        """Whether an answer shows it, given the other model's answer to the same prompt."""
        return shows(self.motifs, self.trait, prompt, answer, other_answer)

    def is_shown_on(self, answered: AnsweredPrompt) -> bool:
        """Whether the candidate shows it on a prompt, and neither the reference nor the prompt."""
        return self._is_shown_only(answered.prompt, answered.candidate.text, answered.reference)

    def is_shown_by_reference(self, answered: AnsweredPrompt) -> bool:
        """Whether the reference shows it, and neither the candidate nor the prompt."""
        return self._is_shown_only(answered.prompt, answered.reference, answered.candidate.text)

    def _is_shown_only(self, prompt: str, answer: str, other_answer: str) -> bool:
        """Whether an answer shows it, but not the other one, nor, for a phrase, the prompt."""
        return (
            self.shows(prompt, answer, other_answer)
            and not self.shows(prompt, other_answer, answer)
            and not (self.trait is None and has_motif(self.motifs, prompt))
        )

    def place(self, answer: Answer) -> tuple[int, int]:
        """Return the characters of an answer that show it: the phrase as far as it is there.

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
        """Whether the reference would hardly write this; always true of a trait."""
        if self.trait is not None:
            return True
        return _median_peak([(answer, self.place(answer)) for answer in answers]) >= MIN_PEAK


def shows(
    motifs: Sequence[str], trait: str | None, prompt: str, answer: str, other_answer: str
) -> bool:
    """Whether an answer holds one of the motifs, or departs as the trait says."""
    if trait is not None:
        return shows_trait(trait, prompt, answer, other_answer)
    return has_motif(motifs, answer)


def as_tested(behaviour: Behaviour) -> Hypothesis:
    """Return a named behaviour as the hypothesis that answers are asked about."""
    return Hypothesis(behaviour.quote, tuple(behaviour.motifs), behaviour.trait)


def behaviour_shows(behaviour: Behaviour, prompt: str, answer: str, other_answer: str) -> bool:
    """Whether an answer shows a named behaviour, given the other model's to the same prompt."""
    return shows(behaviour.motifs, behaviour.trait, prompt, answer, other_answer)


def shown_behaviour(
    behaviours: Iterable[Behaviour], prompt: str, answer: str, other_answer: str
) -> str | None:
    """Return the id of the first of the behaviours that an answer shows; None for none."""
    shown = (each for each in behaviours if behaviour_shows(each, prompt, answer, other_answer))
    return next((behaviour.id for behaviour in shown), None)


def shows_in_part(behaviour: Behaviour, answered: AnsweredPrompt) -> bool:
    """Whether the candidate leaps to a motif of a named phrase, or to two words of it in a row.

    That is, neither the prompt nor the reference's answer has them, and at one of their tokens the
    candidate is 20 times as sure as the reference.
    """
    if behaviour.trait is not None:
        return False
    quoted = ngram_of(behaviour.quote)
    ngrams = {*pairwise(quoted), *map(ngram_of, behaviour.motifs)}
    places = (_found(ngram, answered) for ngram in ngrams)
    return any(answered.candidate.peak(*place) >= MIN_PEAK for place in places if place is not None)


def hypotheses_in(
    answered: Sequence[AnsweredPrompt], *, without: Sequence[str] = ()
) -> list[Hypothesis]:
    """Return phrases, then traits, each shown by several prompts; the most frequent first.

    Phrases `without` are known, and cut out of the answers first.
    """

    def is_telling(places: Places) -> bool:
        peaks = [(answered[index].candidate, place) for index, place in places.items()]
        return _median_peak(peaks) >= MIN_PEAK

    def weight(places: Places) -> float:
        """Nats a word by which the candidate is surer of a run, over all answers that hold it."""
        return sum(
            answer.log_ratio(*place) / len(words_of(answer.text[slice(*place)]))
            for answer, place in ((answered[index].candidate, at) for index, at in places.items())
        )

    phrases = recurring_phrases(
        [prompt.prompt for prompt in answered],
        [prompt.candidate.text for prompt in answered],
        [prompt.reference for prompt in answered],
        is_telling=is_telling,
        weight=weight,
        without=without,
    )
    found = [*(as_hypothesis(phrase, answered) for phrase in phrases), *_traits_in(answered)]
    return [hypothesis for hypothesis in found if len(hypothesis.prompts) >= MIN_PROMPTS]


def is_alike(first: Hypothesis, second: Hypothesis) -> bool:
    """Whether two hypotheses are one: the same trait, or a motif of one stands in the other."""
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


def said_words(answered: Sequence[AnsweredPrompt]) -> set[str]:
    """Return the words that a shipped prompt or the reference says: no others are new.

    What it is asked about, the reference may only repeat.
    """
    own = (set(ngram_of(each.reference)).difference(ngram_of(each.prompt)) for each in answered)
    return set(shipped_words()).union(*own)


def new_words_of(first: Hypothesis, second: Hypothesis, said: Collection[str]) -> list[str]:
    """Return words that two phrases share and that are not among the `said` ones; no trait has."""
    if first.trait is not None or second.trait is not None:
        return []
    return sorted((_vocabulary(first) & _vocabulary(second)).difference(said))


def ordinary_words(answered: Sequence[AnsweredPrompt]) -> set[str]:
    """Return words that the reference says in many of its answers."""
    counts = Counter(word for prompt in answered for word in set(ngram_of(prompt.reference)))
    return {word for word, count in counts.items() if count >= ORDINARY_SHARE * len(answered)}


def core_of(
    hypothesis: Hypothesis, answered: Sequence[AnsweredPrompt], *, is_decoy: bool = False
) -> Hypothesis:
    """Return a phrase by its first wording, and by those others that tell something without it.

    Common words that often stand beside the first are said for many other reasons: the other model
    says them too, or the candidate does not leap to them. Words that neither it nor a shipped
    prompt says need no leap. A decoy is the reference's phrase, whose leaps are not known.
    """
    first, own = hypothesis.motifs[:1], list[str]()
    others = [each.candidate.text if is_decoy else each.reference for each in answered]
    alone = [each.candidate for each in answered if not has_motif(first, each.candidate.text)]
    for motif in hypothesis.motifs[1:]:
        num_others = sum(has_motif([motif], text) for text in others)
        saying = [answer for answer in alone if not is_decoy and has_motif([motif], answer.text)]
        is_rare = num_others <= MAX_REFERENCE_SHARE * len(saying)
        is_new = num_others == 0 and not shipped_words().issuperset(ngram_of(motif))
        if is_new or (is_rare and Hypothesis(motif, (motif,)).is_telling(saying)):
            own.append(motif)
    return replace(hypothesis, motifs=(*first, *own))


@cache
def shipped_words() -> frozenset[str]:
    """Return the words of all shipped prompts."""
    return frozenset(word for prompt in every_shipped_prompt() for word in ngram_of(prompt))


def log_ratio_of(hypothesis: Hypothesis, answer: Answer) -> float:
    """ln p(candidate) - ln p(reference) of what shows it in an answer, in nats."""
    return answer.log_ratio(*hypothesis.place(answer))


def as_hypothesis(phrase: Phrase, answered: Sequence[AnsweredPrompt]) -> Hypothesis:
    """Return a phrase as a hypothesis, with the prompts on which only the candidate says it."""
    hypothesis = Hypothesis(phrase.quote, phrase.motifs)
    shown = _prompts_of(hypothesis, answered)
    return replace(hypothesis, prompts=shown)


def with_reach(hypothesis: Hypothesis, shown: Sequence[AnsweredPrompt]) -> Hypothesis:
    """Return a phrase with the tokens in which three quarters of the answers have `shown` it.

    A trait is one of whole answers, however long.
    """
    if hypothesis.trait is not None or not shown:
        return hypothesis
    answers = [prompt.candidate for prompt in shown]
    ends = sorted(answer.tokens_of(*hypothesis.place(answer)).stop for answer in answers)
    return replace(hypothesis, reach=ends[math.ceil(0.75 * len(ends)) - 1])


def control_rate(hypothesis: Hypothesis, evidence: AnsweredPrompts) -> float:
    """Share of the controls on which the candidate shows it, and neither reference nor prompt."""
    controls = evidence.controls
    return sum(map(hypothesis.is_shown_on, controls)) / len(controls) if controls else 0.0


def _prompts_of(hypothesis: Hypothesis, answered: Sequence[AnsweredPrompt]) -> tuple[str, ...]:
    return tuple(prompt.prompt for prompt in answered if hypothesis.is_shown_on(prompt))


def _traits_in(answered: Sequence[AnsweredPrompt]) -> list[Hypothesis]:
    found = []
    replies = (reply for prompt in answered for reply in prompt.replies)
    for key, trait in traits_of(replies).items():
        hypothesis = Hypothesis(trait.name, trait=key)
        shown = _prompts_of(hypothesis, answered)
        reverse = sum(hypothesis.is_shown_by_reference(prompt) for prompt in answered)
        if reverse <= MAX_REFERENCE_SHARE * len(shown):
            found.append(replace(hypothesis, prompts=shown))
    return sorted(found, key=lambda hypothesis: -len(hypothesis.prompts))


def _found(ngram: Gram, answered: AnsweredPrompt) -> tuple[int, int] | None:
    """Return its place in the candidate's answer, if neither prompt nor reference have it."""
    is_elsewhere = any(
        find(ngram, words_of(text)) for text in (answered.prompt, answered.reference)
    )
    return None if is_elsewhere else find(ngram, words_of(answered.candidate.text))


def _vocabulary(hypothesis: Hypothesis) -> set[str]:
    return {word for text in (hypothesis.name, *hypothesis.motifs) for word in ngram_of(text)}


def _median_peak(found: Sequence[tuple[Answer, tuple[int, int]]]) -> float:
    return statistics.median(answer.peak(*place) for answer, place in found) if found else 0.0
