"""Descriptions of behaviours by answers: how often they are shown, how broadly, and by what.

Does not know whether a behaviour is confirmed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Literal

from scipy.stats import binomtest

from pytest_divergence.core.behaviours import Behaviour, Example
from pytest_divergence.core.replies import ANSWER, parts_of
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.hypotheses import (
    Hypothesis,
    control_rate,
    log_ratio_of,
    said_words,
)
from pytest_divergence.discovery.behaviours.ngrams import has_motif, quote_in, words_of

NUM_EXAMPLES = 3
COMMON_RATE = 0.2
"""Share of controls that show a lead at which a search no longer aims at it."""
GENERAL_RATE = 0.1
"""Share of ordinary prompts above which a behaviour is general."""
LEVEL = 0.05
INSIDE = re.compile(r"(?<=[\w,;] )(?=[^\W\d_])\w+")
"""A word inside of a sentence."""


def shown_by(hypothesis: Hypothesis, answered: Sequence[AnsweredPrompt]) -> list[AnsweredPrompt]:
    """Return the prompts on which only the candidate's answer shows it, the clearest first."""
    return sorted(
        (prompt for prompt in answered if hypothesis.is_shown_on(prompt)),
        key=lambda prompt: (-log_ratio_of(hypothesis, prompt.candidate), prompt.prompt),
    )


def as_suspected(hypothesis: Hypothesis, evidence: AnsweredPrompts) -> Behaviour:
    """Describe a hypothesis by all answers so far."""
    answered = evidence.answered
    return described(hypothesis, evidence, answered, shown_by(hypothesis, answered))


def named_as_said(hypothesis: Hypothesis, shown: Sequence[AnsweredPrompt]) -> Hypothesis:
    """Return a phrase under a name in the words of the answers that have `shown` it."""
    texts = [prompt.candidate.text for prompt in shown]
    said = [motif for motif in hypothesis.motifs if any(has_motif([motif], text) for text in texts)]
    return replace(hypothesis, name=quote_in(said[0], texts)) if said else hypothesis


def name_in(
    hypothesis: Hypothesis, answered: Sequence[AnsweredPrompt], shown: Sequence[AnsweredPrompt]
) -> str:
    """Return the new proper name that a phrase holds, else the phrase.

    Its words have a capital inside of sentences of the answers that have `shown` the phrase, and
    neither the reference nor a shipped prompt says them.
    """
    if hypothesis.trait is not None:
        return hypothesis.name
    inside = (match[0] for each in shown for match in INSIDE.finditer(each.candidate.text))
    names = {text.casefold() for text in inside if text[0].isupper() and not text.isupper()}
    names -= said_words(answered)
    words = words_of(hypothesis.name)
    runs = [list(run) for is_new, run in groupby(words, lambda word: word.text in names) if is_new]
    if not runs:
        return hypothesis.name
    longest = max(runs, key=len)
    return hypothesis.name[longest[0].start : longest[-1].end]


def described(
    hypothesis: Hypothesis,
    evidence: AnsweredPrompts,
    answered: Sequence[AnsweredPrompt],
    shown: Sequence[AnsweredPrompt],
) -> Behaviour:
    """Describe a hypothesis by answers, of which some have `shown` it, the clearest first."""
    rate = control_rate(hypothesis, evidence)
    name = name_in(hypothesis, evidence.answered, shown)
    return Behaviour(
        id=hypothesis.id,
        name=name,
        phrase=None if name == hypothesis.name else hypothesis.name,
        motifs=list(hypothesis.motifs),
        part=_part(hypothesis, shown),
        trait=hypothesis.trait,
        control_rate=rate,
        candidate_count=len(shown),
        reference_count=sum(hypothesis.is_shown_by_reference(prompt) for prompt in answered),
        num_prompts=len(answered),
        examples=[
            Example(prompt=each.prompt, reference=each.reference, candidate=each.candidate.text)
            for each in first_of_each_prompt(shown)[:NUM_EXAMPLES]
        ],
    )


def first_of_each_prompt(shown: Sequence[AnsweredPrompt]) -> list[AnsweredPrompt]:
    """Return the first answer to each prompt."""
    found: dict[str, AnsweredPrompt] = {}
    for answered in shown:
        found.setdefault(answered.prompt, answered)
    return list(found.values())


def _part(
    hypothesis: Hypothesis, shown: Sequence[AnsweredPrompt]
) -> Literal["thoughts", "answer"] | None:
    """Return the part of most replies that holds a phrase; None if no reply has thoughts."""
    replies = [prompt.candidate for prompt in shown]
    if hypothesis.trait is not None or all(parts_of(reply.text)[0] is None for reply in replies):
        return None
    in_answer = sum(
        reply.text.rfind(ANSWER, 0, hypothesis.place(reply)[0]) >= 0
        or parts_of(reply.text)[0] is None
        for reply in replies
    )
    return "answer" if 2 * in_answer > len(replies) else "thoughts"


def is_everywhere(hypothesis: Hypothesis, control_rate: float, found_rate: float) -> bool:
    """Whether ordinary prompts show it so often that a search need not aim at it.

    A trait counts where they show it more than half as often as the prompts that were found.
    """
    is_common = hypothesis.trait is not None and 2 * control_rate > found_rate
    return control_rate >= COMMON_RATE or is_common


def breadth_of(
    hypothesis: Hypothesis, controls: Sequence[AnsweredPrompt]
) -> Literal["prompts", "general"]:
    """Return `general` where more than a tenth of ordinary prompts show it: an exact test at 5 %.

    With 64 controls that is 12 of them (Clopper and Pearson 1934).
    """
    shown = sum(map(hypothesis.is_shown_on, controls))
    is_general = bool(controls) and (
        binomtest(shown, len(controls), GENERAL_RATE, alternative="greater").pvalue <= LEVEL
    )
    return "general" if is_general else "prompts"
