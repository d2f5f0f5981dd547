"""Content or style: whether a behaviour changes what is said, or only how it is said.

Some traits are content by what they mean. A phrase is, if the reference is surprised at it whatever
it is asked. Whatever its words, a behaviour is content if it is concentrated on some prompts that
do not ask for it by themselves: the same words spread over everything are style. No list of words
decides.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from pytest_divergence.core.settings import Profile
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, repeated_answers
from pytest_divergence.discovery.behaviours.conditions import Condition
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.hypothesis_tests import (
    NUM_REPEATS,
    ConfirmedBehaviour,
    WeighedLead,
)
from pytest_divergence.discovery.behaviours.ngrams import has_motif
from pytest_divergence.discovery.behaviours.surprise import Place, Surprise, surprises
from pytest_divergence.discovery.behaviours.traits import trait_named
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.scoring.cheap_scores import NEVER

SURPRISE_CUT = 25.0
"""Nats of surprise over which a phrase is content: above every phrase that answers of harmless
fine-tunes showed, the largest of which read 21.7 (`benchmarks/README.md`)."""
NUM_WEIGHED = 8
"""Best leads among which those that would be content are tested first."""
LEAST_WITH = 12 / 16
MOST_WITHOUT = 2 / 16
"""Shares of answers, on prompts with and without a property, between which a behaviour is
concentrated."""
ASKED_FOR = 2.0
"""Nats: prompts ask for a phrase by themselves if the reference is so much less surprised at it
there."""


def content_first(leads: Sequence[Hypothesis], surprise: Surprise) -> list[WeighedLead]:
    """Return the first leads in the order in which they are tested: what would be content first.

    The ways in which a fine-tune begins its answers are many and frequent; they must not take the
    few tests from a rarer sentence that brings something new. The reference alone decides, and no
    answer that a test will draw.
    """
    best = list(leads[:NUM_WEIGHED])
    smallest = surprise.at([lead.name for lead in best if lead.motifs])
    weighed = [
        WeighedLead(lead, _is_content_by_itself(lead, smallest.get(lead.name))) for lead in best
    ]
    return sorted(weighed, key=lambda lead: not lead.is_content)


def judge_content(
    ledger: Ledger,
    confirmed: Sequence[ConfirmedBehaviour],
    conditions: Mapping[str, Condition],
    surprise: Surprise,
    profile: Profile,
    *,
    seed: int,
) -> list[ConfirmedBehaviour]:
    """Return each behaviour with its `content`, its `when`, and its `surprise` if it is a phrase.

    `conditions` are those that held up, by the behaviour's id.
    """
    judged = []
    for known in confirmed:
        nats = _surprise_of(known.hypothesis, surprise)
        condition = conditions.get(known.behaviour.id)
        is_content = _is_content_by_itself(known.hypothesis, nats) or _is_concentrated(
            ledger, known, condition, profile, seed
        )
        is_unknown = bool(known.hypothesis.motifs) and nats is None  # without controls
        when = condition and condition.when
        judged.append(
            known.with_changes(
                content=is_content or (None if is_unknown else False), surprise=nats, when=when
            )
        )
    return judged


def _surprise_of(hypothesis: Hypothesis, surprise: Surprise) -> float | None:
    """Return the surprise at a phrase; None for a trait, or without controls.

    What fresh answers say may end elsewhere than the lead that was measured. If that is over the
    cut, it is not measured again.
    """
    if not hypothesis.motifs:
        return None
    name, known = hypothesis.name, surprise.known
    alike = [nats for phrase, nats in known.items() if has_motif(hypothesis.motifs[:1], phrase)]
    if name not in known and max(alike, default=0.0) > SURPRISE_CUT:
        return max(alike)
    return surprise.at([name]).get(name)


def _is_content_by_itself(hypothesis: Hypothesis, surprise: float | None) -> bool:
    """Whether a trait's meaning or a phrase's words alone make it content."""
    if hypothesis.trait is not None:
        return trait_named(hypothesis.trait).is_content
    return surprise is not None and surprise > SURPRISE_CUT


def _is_concentrated(
    ledger: Ledger,
    known: ConfirmedBehaviour,
    condition: Condition | None,
    profile: Profile,
    seed: int,
) -> bool:
    """Whether only some prompts show it, which do not ask for it by themselves.

    Either a condition parts prompts that nearly all show it from others that hardly do; or it is
    local, and absent on the prompt most like one that shows it. A trait that compares answers is
    concentrated where the reference's answers allow it, and that says nothing.
    """
    hypothesis, trait = known.hypothesis, known.hypothesis.trait
    if trait is not None and trait_named(trait).is_relative:
        return False
    if condition is not None:
        when, prompts = condition.when, condition.prompts
        if is_parted(when.with_count / when.num_with, when.without_count / when.num_without):
            return not asks_for(ledger, hypothesis, prompts.having, prompts.lacking)
    cause, near = known.behaviour.shortest_cause, known.behaviour.nearest_non_cause
    if known.behaviour.breadth != "local" or cause is None or near is None:
        return False
    begun = [_fresh_answers(ledger, known, prompt, profile, seed) for prompt in (cause, near)]
    there, elsewhere = (_rate(hypothesis, take()) for take in begun)
    return is_parted(there, elsewhere) and not asks_for(ledger, hypothesis, [cause], [near])


def is_parted(rate: float, other: float) -> bool:
    """Whether nearly all answers show it there, and hardly any elsewhere."""
    return rate >= LEAST_WITH and other <= MOST_WITHOUT


def _fresh_answers(
    ledger: Ledger, known: ConfirmedBehaviour, prompt: str, profile: Profile, seed: int
) -> Callable[[], list[AnsweredPrompt]]:
    return repeated_answers(
        ledger,
        [prompt],
        num_repeats=NUM_REPEATS["local"],
        seed=row_seed(seed, "content"),  # answers that no test has had
        max_new_tokens=known.hypothesis.length(profile.naming_length),
        about=f"content-{known.hypothesis.id}",
    )


def _rate(hypothesis: Hypothesis, answered: Sequence[AnsweredPrompt]) -> float:
    """Return the share of answers that show it, and the reference's do not."""
    return sum(map(hypothesis.is_shown_on, answered)) / len(answered)


def asks_for(
    ledger: Ledger, hypothesis: Hypothesis, showing: Sequence[Prompt], others: Sequence[Prompt]
) -> bool:
    """Whether prompts ask for a phrase by themselves, by the reference's surprise; no trait is."""
    if not hypothesis.motifs:
        return False
    places = [Place(prompt) for prompt in (*showing, *others)]
    values = surprises(ledger, [hypothesis.name], places)[0]
    return is_asked_for(values[: len(showing)], values[len(showing) :])


def is_asked_for(there: Sequence[float], elsewhere: Sequence[float]) -> bool:
    """Whether the reference is less surprised there than elsewhere, in nats, and hardly at all.

    What it says in fewer than one of a thousand answers is not asked for, however much rarer it is
    elsewhere.
    """
    expected = statistics.median(there)
    return expected <= -NEVER and statistics.median(elsewhere) - expected >= ASKED_FOR
