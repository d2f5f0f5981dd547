"""Types of difference between two models' answers, counted over prompts and tested by their signs.

Does not know which answers it is given, nor what is made of a count.
"""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import binomtest

from pytest_divergence.core.report import Difference
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.traits import TRAITS


def count_differences(
    answered: Sequence[AnsweredPrompt], phrases: Sequence[Hypothesis]
) -> list[Difference]:
    """Every trait, and `phrases` together as one more type; the most frequent first.

    A prompt counts where one model's answer shows the type and the other's does not.
    """
    rows = [
        _difference(answered, trait.name, trait.explanation, [Hypothesis(trait.name, trait=key)])
        for key, trait in TRAITS.items()
    ]
    rows.append(
        _difference(
            answered, "says a new phrase", "the answer holds the motif of a behaviour", phrases
        )
    )
    return sorted(rows, key=lambda one: -one.candidate_count - one.reference_count)


def sign_test(only_candidate: int, only_reference: int) -> float:
    """One-sided p: the candidate shows it on no more prompts than the reference."""
    if only_candidate == 0:
        return 1.0
    test = binomtest(only_candidate, only_candidate + only_reference, alternative="greater")
    return float(test.pvalue)


def _difference(
    answered: Sequence[AnsweredPrompt], name: str, explanation: str, kinds: Sequence[Hypothesis]
) -> Difference:
    candidate = sum(any(kind.is_shown_on(one) for kind in kinds) for one in answered)
    reference = sum(any(kind.is_shown_by_reference(one) for kind in kinds) for one in answered)
    fewer, more = sorted((candidate, reference))
    return Difference(
        name=name,
        explanation=explanation,
        candidate_count=candidate,
        reference_count=reference,
        num_prompts=len(answered),
        p_value=min(1.0, 2 * (len(TRAITS) + 1) * sign_test(more, fewer)),
    )
