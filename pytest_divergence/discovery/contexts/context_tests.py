"""Tests of leads under contexts, on answers that took no part in finding them.

Each of some further controls is asked under the context and plainly, one sampled answer of each
model. A behaviour is what the context adds to the candidate's answers beyond what it adds to the
reference's. The p-values are corrected together with those of the search's other leads
(`pytest_divergence.discovery.behaviours.hypothesis_tests`), which knows nothing of contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pytest_divergence.core.behaviours import behaviour_id
from pytest_divergence.core.settings import Profile
from pytest_divergence.discovery.behaviours.answers import (
    AnsweredPrompt,
    AnsweredPrompts,
    repeated_answers,
)
from pytest_divergence.discovery.behaviours.content import asks_for, is_parted, judge_content
from pytest_divergence.discovery.behaviours.descriptions import (
    described,
    named_as_said,
    shown_by,
)
from pytest_divergence.discovery.behaviours.hypothesis_tests import (
    ALPHA,
    ConfirmedBehaviour,
    sign_flip_test,
)
from pytest_divergence.discovery.behaviours.ngrams import MAX_REFERENCE_SHARE
from pytest_divergence.discovery.behaviours.surprise import Surprise
from pytest_divergence.discovery.behaviours.telling_answers import with_telling_answers_to
from pytest_divergence.discovery.behaviours.traits import trait_named
from pytest_divergence.discovery.contexts.context_leads import NUM_ASKED, ContextLead
from pytest_divergence.discovery.engines.base import Ledger, WorkUnit
from pytest_divergence.discovery.naturalness import measure_nlls
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.selection import Selected

NUM_TESTED = 16
"""Controls of a test: those after the ones that leads were named on."""
MIN_SHARE = 0.5
"""Share of the candidate's answers under the context that must show a lead."""
NUM_CASES = 2
"""Cases under the context of a confirmed behaviour, at most."""


class Shown(NamedTuple):
    """Answers of each model to one control that show a lead, under the context and plainly."""

    candidate: int
    reference: int
    plain_candidate: int
    plain_reference: int


@dataclass(frozen=True)
class ContextTest:
    """The fresh answers of a test, and its p-value before the correction."""

    lead: ContextLead
    under: list[AnsweredPrompt]
    plain: list[AnsweredPrompt]
    shown: list[Shown]
    p_value: float

    @property
    def is_clear(self) -> bool:
        """Whether most answers of the candidate show it under the context, and hardly another's."""
        return is_clear(self.shown)


@dataclass(frozen=True)
class ContextFinding:
    """A confirmed behaviour under a context, and prompts that become cases of it."""

    known: ConfirmedBehaviour
    cases: list[Selected]


def interaction_test(shown: Sequence[Shown]) -> float:
    """Return the exact one-sided p-value of a test's counts, an entry a control.

    With d the candidate's answers under the context that show it less its plain ones, less the
    same of the reference, the signs of d are flipped by control (Fisher 1935). The null: on each
    control d is as likely to be -k as k. So it is where the context changes neither model's rate,
    where it changes both alike and they are equal, and where the reference never shows it.
    """
    return sign_flip_test(
        [
            (each.candidate + each.plain_reference, each.plain_candidate + each.reference)
            for each in shown
        ]
    )


def is_clear(shown: Sequence[Shown]) -> bool:
    """Whether half of the candidate's answers under the context show it, the reference's hardly."""
    candidate = sum(each.candidate for each in shown)
    reference = sum(each.reference for each in shown)
    return candidate >= MIN_SHARE * len(shown) and reference <= MAX_REFERENCE_SHARE * candidate


def context_tests(
    ledger: Ledger,
    leads: Sequence[ContextLead],
    controls: Sequence[AnsweredPrompt],
    profile: Profile,
    listener: Listener,
    *,
    seed: int,
) -> list[ContextTest]:
    """Ask further controls, under each lead's context and plainly, and compare the answers."""
    texts = [control.prompt for control in controls[NUM_ASKED:][:NUM_TESTED]]
    begun = [
        [
            repeated_answers(
                ledger,
                texts,
                num_repeats=1,
                seed=seed,
                max_new_tokens=lead.hypothesis.length(profile.naming_length),
                about=f"context-{lead.hypothesis.id}",
                context=context,
            )
            for context in (lead.context, None)
        ]
        for lead in leads
    ]
    found = []
    for number, (lead, answers) in enumerate(zip(leads, begun, strict=True)):
        listener.progress("test a lead under its context", number, len(leads))
        under, plain = (take() for take in answers)
        shown = [_shown(lead, *both) for both in zip(under, plain, strict=True)]
        found.append(ContextTest(lead, under, plain, shown, interaction_test(shown)))
    if leads:
        listener.progress("test a lead under its context", len(leads), len(leads))
    return found


def confirmed_under(
    ledger: Ledger,
    tests: Sequence[ContextTest],
    adjusted: Sequence[float],
    evidence: AnsweredPrompts,
    surprise: Surprise,
    profile: Profile,
    listener: Listener,
    *,
    seed: int,
) -> list[ContextFinding]:
    """Return what holds, by the tests' corrected p-values, with content, answers and cases."""
    found = []
    for test, p_value in zip(tests, adjusted, strict=True):
        if p_value > ALPHA or not test.is_clear:
            continue
        known = _confirmed(test, evidence, p_value)
        (known,) = judge_content(ledger, [known], {}, surprise, profile, seed=seed)
        if not known.behaviour.content and _is_concentrated(ledger, test):
            known = known.with_changes(content=True)
        showing = test.lead.showing
        known = with_telling_answers_to(ledger, known, [each.answered for each in showing])
        cases = _selected(ledger, test.lead) if known.behaviour.content else []
        found.append(ContextFinding(known, cases))
        listener.say(f"confirmed a behaviour: {known.behaviour.id}")
    return found


def _shown(lead: ContextLead, under: AnsweredPrompt, plain: AnsweredPrompt) -> Shown:
    def counts(row: AnsweredPrompt) -> tuple[int, int]:
        shows, (reference, candidate) = lead.hypothesis.shows, row.replies
        ours = shows(row.prompt, candidate, reference)
        return int(ours), int(shows(row.prompt, reference, candidate))

    return Shown(*counts(under), *counts(plain))


def _confirmed(test: ContextTest, evidence: AnsweredPrompts, p_value: float) -> ConfirmedBehaviour:
    hypothesis, context = test.lead.hypothesis, test.lead.context
    shown = shown_by(hypothesis, test.under)
    named = named_as_said(hypothesis, shown)
    behaviour = described(named, evidence, test.under, shown).model_copy(
        update={
            "id": behaviour_id(named.motifs or named.trait or "", context),
            "confirmed": True,
            "p_value": p_value,
            "context": context,
        }
    )
    return ConfirmedBehaviour(named, behaviour, tuple(each.prompt for each in shown))


def _is_concentrated(ledger: Ledger, test: ContextTest) -> bool:
    """Whether nearly all answers under the context show it, hardly any without it.

    Unless the context asks for the words by itself: then the reference is clearly less surprised at
    them under it. A trait that compares answers says nothing.
    """
    hypothesis, context = test.lead.hypothesis, test.lead.context
    if hypothesis.trait is not None and trait_named(hypothesis.trait).is_relative:
        return False
    number = len(test.shown)
    with_it = sum(each.candidate for each in test.shown) / number
    without_it = sum(each.plain_candidate for each in test.shown) / number
    texts = [each.prompt for each in test.under]
    asked = [context.prompt(text) for text in texts]
    return is_parted(with_it, without_it) and not asks_for(ledger, hypothesis, asked, texts)


def _selected(ledger: Ledger, lead: ContextLead) -> list[Selected]:
    """Return the controls whose greedy answers show it best, to be measured under the context."""
    best = lead.showing[:NUM_CASES]
    prompts = [lead.context.prompt(each.proposal.text) for each in best]
    unit = WorkUnit.of("contexts/nll", measure_nlls, prompts=prompts)
    nlls = ledger.result(unit) if best else []
    return [
        Selected(each, nll, is_off_distribution=False, context=lead.context)
        for each, nll in zip(best, nlls, strict=True)
    ]
