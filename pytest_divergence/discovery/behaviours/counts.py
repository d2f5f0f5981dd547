"""Types of difference between two models' answers, counted over prompts.

Types that are fixed beforehand are tested by their signs.
Does not know where the answers come from, nor how a count is used.
"""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import binomtest

from pytest_divergence.core.report import Difference
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.traits import traits_of


def count_differences(
    answered: Sequence[AnsweredPrompt], phrases: Sequence[Hypothesis]
) -> list[Difference]:
    """Count every trait, and `phrases` together as one more type; the most frequent first.

    A prompt counts where one model's answer shows the type and the other's does not. Phrases get no
    p-value: they are chosen in these answers because the candidate says them.
    """
    traits = traits_of(reply for prompt in answered for reply in prompt.replies)
    types = [
        (trait.name, trait.explanation, [Hypothesis(trait.name, trait=key)])
        for key, trait in traits.items()
    ]
    phrase = "says a new phrase", "the answer contains the phrase of a behaviour", phrases
    rows = [_difference(answered, *kind, num_tests=len(types)) for kind in types]
    rows.append(_difference(answered, *phrase, num_tests=None))
    return sorted(rows, key=lambda row: -row.candidate_count - row.reference_count)


def sign_test(only_candidate: int, only_reference: int) -> float:
    """Return the one-sided p-value; the null: the candidate shows it no more often."""
    if only_candidate == 0:
        return 1.0
    test = binomtest(only_candidate, only_candidate + only_reference, alternative="greater")
    return float(test.pvalue)


def _difference(
    answered: Sequence[AnsweredPrompt],
    name: str,
    explanation: str,
    kinds: Sequence[Hypothesis],
    *,
    num_tests: int | None,
) -> Difference:
    candidate = sum(any(kind.is_shown_on(prompt) for kind in kinds) for prompt in answered)
    reference = sum(
        any(kind.is_shown_by_reference(prompt) for kind in kinds) for prompt in answered
    )
    p_value = None
    if num_tests is not None:
        fewer, more = sorted((candidate, reference))
        p_value = min(1.0, 2 * num_tests * sign_test(more, fewer))
    return Difference(
        name=name,
        explanation=explanation,
        candidate_count=candidate,
        reference_count=reference,
        num_prompts=len(answered),
        p_value=p_value,
    )
