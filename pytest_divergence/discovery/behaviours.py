"""Behaviours: phrases that recur in the candidate's continuations and not in the reference's.

Counts word n-grams over distinct prompts on unamplified continuations, with a paired sign test and
Bonferroni's correction for every n-gram that either model shows often enough to be tested. What is
found is suspected: it was not yet tested on continuations of its own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_divergence.core.behaviours import Behaviour, Example, behaviour_id
from pytest_divergence.discovery.proposals import is_near

SIZES = range(2, 9)
"""Words in a motif."""
MAX_P = 0.05
MIN_PROMPTS = 3
GENERAL_RATE = 0.2
"""Share of controls from which a behaviour is a new style."""
NUM_EXAMPLES = 3
Gram = tuple[str, ...]


@dataclass(frozen=True)
class Answered:
    """One prompt with an unamplified continuation of each model."""

    prompt: str
    reference: str
    candidate: str
    is_control: bool


def suspected_behaviours(answered: Sequence[Answered]) -> list[Behaviour]:
    """The candidate's significant phrases, near-duplicates merged, the most frequent first."""
    distinct = _distinct(answered)
    candidate = _prompts_by_gram(one.candidate for one in distinct)
    reference = _prompts_by_gram(one.reference for one in distinct)
    # Chosen by both models' prompts together: a choice by the candidate's alone would leave out
    # the n-grams that speak against a difference, and correct for too few.
    num_tested = sum(
        len(candidate[gram] | reference[gram]) >= MIN_PROMPTS
        for gram in candidate.keys() | reference.keys()
    )
    looked_at = {gram: own for gram, own in candidate.items() if len(own) >= MIN_PROMPTS}
    p_values = {
        gram: min(1.0, num_tested * _sign_test(own, reference[gram]))
        for gram, own in looked_at.items()
    }
    ranked = sorted(
        (gram for gram, p_value in p_values.items() if p_value <= MAX_P),
        key=lambda gram: (-len(looked_at[gram]), -len(gram), gram),
    )
    behaviours: list[Behaviour] = []
    taken: set[int] = set()
    for gram in ranked:
        prompts = looked_at[gram]
        if len(prompts & taken) * 2 > len(prompts):  # another phrase of a behaviour named already
            continue
        taken |= prompts
        name = _longest_like(gram, ranked, looked_at)
        behaviours.append(_behaviour(gram, name, distinct, prompts, reference, p_values[gram]))
    return behaviours


def shows(behaviour: Behaviour, text: str) -> bool:
    """Whether a continuation holds one of the behaviour's motifs."""
    words = f" {' '.join(_words(text))} "  # whole words: "cat in" is not in "concat in"
    return any(f" {motif} " in words for motif in behaviour.motifs)


def _behaviour(
    gram: Gram,
    name: Gram,
    answered: Sequence[Answered],
    prompts: set[int],
    reference: dict[Gram, set[int]],
    p_value: float,
) -> Behaviour:
    controls = {index for index, one in enumerate(answered) if one.is_control}
    rate = len(prompts & controls) / len(controls) if controls else 0.0
    shown = [answered[index] for index in sorted(prompts)][:NUM_EXAMPLES]
    return Behaviour(
        id=behaviour_id([" ".join(gram)]),
        name=" ".join(name),
        kind="general" if rate >= GENERAL_RATE else "conditional",
        motifs=[" ".join(gram)],
        control_rate=rate,
        candidate_count=len(prompts),
        reference_count=len(reference[gram]),
        num_prompts=len(answered),
        p_value=p_value,
        examples=[
            Example(prompt=one.prompt, reference=one.reference, candidate=one.candidate)
            for one in shown
        ],
    )


def _longest_like(gram: Gram, ranked: Sequence[Gram], prompts: dict[Gram, set[int]]) -> Gram:
    """The longest phrase that most of the same prompts show: what a person would quote."""
    like = [
        other for other in ranked if len(prompts[other] & prompts[gram]) >= 0.8 * len(prompts[gram])
    ]
    return max(like, key=len)


def _distinct(answered: Sequence[Answered]) -> list[Answered]:
    """Near-identical prompts count once."""
    kept: list[Answered] = []
    for one in answered:
        if not any(is_near(one.prompt, other.prompt) for other in kept):
            kept.append(one)
    return kept


def _prompts_by_gram(texts: Iterable[str]) -> defaultdict[Gram, set[int]]:
    found: defaultdict[Gram, set[int]] = defaultdict(set)
    for index, text in enumerate(texts):
        words = _words(text)
        for size in SIZES:
            for start in range(len(words) - size + 1):
                found[tuple(words[start : start + size])].add(index)
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _sign_test(candidate: set[int], reference: set[int]) -> float:
    """One-sided: the candidate shows it on no more prompts than the reference."""
    from scipy.stats import binomtest

    only_candidate, only_reference = len(candidate - reference), len(reference - candidate)
    if only_candidate == 0:
        return 1.0
    test = binomtest(only_candidate, only_candidate + only_reference, alternative="greater")
    return float(test.pvalue)
