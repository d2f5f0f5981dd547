"""Tests of leads at the end of a search, on answers that took no part in finding them.

The few leads that most prompts show, and one decoy, get one test each, of a kind that is fixed
before fresh answers are drawn, with Holm's correction for all of them (Holm 1979). How many leads a
search has watched, and how it chose, costs nothing then: given the prompts, fresh answers of two
models that answer these prompts alike are equally likely to show a phrase. The decoy is the first
phrase of amplified answers with the models exchanged. Does not know how leads are found
(`pytest_divergence.discovery.behaviours.leads`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any, Literal, NamedTuple

import numpy as np

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.report import Leads as LeadCounts
from pytest_divergence.core.settings import NUM_TEST_ANSWERS, Profile, Settings
from pytest_divergence.discovery.behaviours.answers import (
    AnsweredPrompt,
    AnsweredPrompts,
    repeated_answers,
)
from pytest_divergence.discovery.behaviours.counts import sign_test
from pytest_divergence.discovery.behaviours.descriptions import (
    breadth_of,
    described,
    named_as_said,
    shown_by,
)
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis, core_of, with_reach
from pytest_divergence.discovery.behaviours.ngrams import MAX_REFERENCE_SHARE
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.models.fingerprints import text_digest

ALPHA = 0.05
"""Chance, at most, that a search confirms anything where both models answer its prompts alike."""
MIN_TRIGGERED = 8
"""Fewest prompts on which one model alone showed a lead, for the test over prompts."""
NUM_LOCAL_PROMPTS = 4
MIN_LOCAL_SHARE = 0.75
"""Share of the candidate's answers to the prompts of a local test that must show a lead: phrases
that come and go with the wording of any prompt are on few by chance, and seldom there."""
Kind = Literal["triggered", "local"]
NUM_REPEATS: Mapping[Kind, int] = {"triggered": NUM_TEST_ANSWERS, "local": 16}
"""Answers of each model to each prompt of a test."""


@dataclass(frozen=True)
class ConfirmedBehaviour:
    """A behaviour, confirmed on answers that came after it was named."""

    hypothesis: Hypothesis
    behaviour: Behaviour
    causes: tuple[str, ...]
    """Prompts that showed it, the clearest first."""

    def with_changes(self, **fields: Any) -> ConfirmedBehaviour:
        """Return it with other fields of its record."""
        return replace(self, behaviour=self.behaviour.model_copy(update=fields))


@dataclass(frozen=True)
class Judgement:
    """Behaviours that the tests at the end of a search have confirmed, and their counts."""

    confirmed: list[ConfirmedBehaviour]
    counts: LeadCounts
    further: list[float]
    """The further p-values, corrected together with those of the leads."""


class WeighedLead(NamedTuple):
    """A lead, and whether its words alone would make it content: known before it is tested."""

    hypothesis: Hypothesis
    is_content: bool


class Rule(NamedTuple):
    """Kind of a test, and how large its counts must be to be told of."""

    kind: Kind
    least_share: float
    """Of the candidate's answers, to show the lead."""


@dataclass(frozen=True)
class FrozenTest:
    """One test, with all that is fixed before fresh answers are drawn."""

    hypothesis: Hypothesis
    rule: Rule
    prompts: tuple[str, ...]
    is_decoy: bool = False
    """Whether it is the reference that should show it."""


@dataclass(frozen=True)
class Outcome:
    """The fresh answers of a test, and its p-value before the correction."""

    test: FrozenTest
    answered: list[AnsweredPrompt]
    p_value: float
    is_clear: bool
    """Whether it is large enough to be told of."""


def judge(
    ledger: Ledger,
    leads: Sequence[WeighedLead],
    decoy: Hypothesis | None,
    evidence: AnsweredPrompts,
    settings: Settings,
    profile: Profile,
    listener: Listener,
    *,
    num_watched: int,
    further: Sequence[float] = (),
) -> Judgement:
    """Test the first of `leads` and the decoy, once each, and confirm what holds.

    A decoy that no answer of the reference alone shows cannot be tested. `evidence` is all that the
    search has answered; it only chooses the prompts. `further` are p-values of tests that were
    carried out elsewhere; one correction is for all.
    """
    tests = [
        frozen(lead, evidence, profile, num_watched=num_watched)
        for lead in leads[: profile.num_tested_leads]
    ]
    if decoy is not None:
        weighed = WeighedLead(decoy, False)
        mirror = frozen(weighed, evidence, profile, num_watched=num_watched, is_decoy=True)
        tests += [mirror] if mirror.prompts else []
    begun = [_begun(ledger, test, settings.seed, profile.naming_length) for test in tests]
    outcomes = []
    for number, (test, answers) in enumerate(zip(tests, begun, strict=True)):
        listener.progress("test a lead", number, len(tests))
        outcomes.append(_outcome(test, answers()))
    if tests:
        listener.progress("test a lead", len(tests), len(tests))
    adjusted = holm([*(outcome.p_value for outcome in outcomes), *further])
    confirmed = list[ConfirmedBehaviour]()
    num_decoys = 0 if any(test.is_decoy for test in tests) else None
    for outcome, p_value in zip(outcomes, adjusted, strict=False):
        if p_value > ALPHA or not outcome.is_clear:
            continue
        if outcome.test.is_decoy:
            num_decoys = 1
            continue
        confirmed.append(_confirmed(outcome, evidence, p_value))
        listener.say(f"confirmed a behaviour: {confirmed[-1].behaviour.id}")
    counts = LeadCounts(
        watched=num_watched + len(further),
        tested=len(tests) + len(further),
        level=ALPHA,
        decoys_confirmed=num_decoys,
    )
    return Judgement(told_once(confirmed), counts, adjusted[len(outcomes) :])


def told_once(confirmed: Sequence[ConfirmedBehaviour]) -> list[ConfirmedBehaviour]:
    """Return the first behaviour of each name, with the causes of all that have it.

    Of a new name, wordings that share no answer are leads of their own until all have it.
    """
    found: dict[str, ConfirmedBehaviour] = {}
    for known in confirmed:
        first = found.setdefault(known.behaviour.name, known)
        causes = tuple(dict.fromkeys((*first.causes, *known.causes)))
        found[known.behaviour.name] = replace(first, causes=causes)
    return list(found.values())


def frozen(
    lead: WeighedLead,
    evidence: AnsweredPrompts,
    profile: Profile,
    *,
    num_watched: int,
    is_decoy: bool = False,
) -> FrozenTest:
    """Fix the kind and the prompts of a test.

    The test over prompts is of all on which one model alone showed the lead, since only those of
    the candidate would confirm a wobble without direction; of words that would be content,
    questions about them are among these. A local test is of the few prompts that show it best,
    questions about its own words among them, with more answers each.
    Wordings that tell nothing by themselves are left out of a phrase first.
    """
    hypothesis = core_of(lead.hypothesis, evidence.answered, is_decoy=is_decoy)
    ours, theirs = Hypothesis.is_shown_on, Hypothesis.is_shown_by_reference
    shows, shows_not = (theirs, ours) if is_decoy else (ours, theirs)
    shown = [prompt for prompt in evidence.answered if shows(hypothesis, prompt)]
    reverse = [prompt for prompt in evidence.answered if shows_not(hypothesis, prompt)]
    if not is_decoy:  # only the candidate's tokens have places
        hypothesis = with_reach(hypothesis, shown)
    is_content = lead.is_content and hypothesis.trait is None
    rule = rule_of(len(shown), len(reverse), num_watched, is_content=is_content)
    if rule.kind == "triggered":
        differing = [*shown, *reverse]
        if is_content:  # its prompts may be ones to which a plant leaks now and then
            differing += [
                row
                for row in evidence.probed
                if shows(hypothesis, row) or shows_not(hypothesis, row)
            ]
        # In an order that knows nothing of the answers.
        texts = sorted({row.prompt for row in differing}, key=text_digest)
        chosen = tuple(texts[: profile.num_behaviour_prompts])
        return FrozenTest(hypothesis, rule, chosen, is_decoy)
    best = shown if is_decoy else shown_by(hypothesis, [*shown, *evidence.probed])
    chosen = tuple(prompt.prompt for prompt in best[:NUM_LOCAL_PROMPTS])
    return FrozenTest(hypothesis, rule, chosen, is_decoy)


def rule_of(
    num_shown: int, num_reverse: int, num_watched: int, *, is_content: bool = False
) -> Rule:
    """Fix the rule of a lead's test by the prompts on which one model alone showed it.

    Where models wobble without direction, each on prompts of its own, the strongest of many leads
    has more of the candidate's prompts by chance, and fresh answers to the same prompts repeat
    that. So a test over prompts needs 8 of them, and more than chance gives to any of the leads
    watched: a sign test with Bonferroni's correction. What is left of these is tested locally, and
    must be there nearly every time. Words that the reference would hardly write anywhere do not
    wobble: of them a local test asks no share.
    """
    if num_shown < MIN_TRIGGERED:
        return Rule("local", 0.0 if is_content else MIN_LOCAL_SHARE)
    if num_watched * sign_test(num_shown, num_reverse) <= ALPHA:
        return Rule("triggered", 0.0)
    return Rule("local", MIN_LOCAL_SHARE)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the given order (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def sign_flip_test(counts: Sequence[tuple[int, int]]) -> float:
    """Return the exact one-sided p-value of `(candidate, reference)` counts, a pair a prompt.

    The null: on each prompt either model is as likely as the other to be the one that shows it more
    often. So each prompt's difference may have either sign (Fisher 1935), however many answers are
    sampled to it; answers to one prompt are no independent evidence.
    """
    differences = [candidate - reference for candidate, reference in counts]
    ways = {0: 1}
    for size in map(abs, differences):
        if size:
            flipped: dict[int, int] = {}
            for total, count in ways.items():
                for sign in (size, -size):
                    flipped[total + sign] = flipped.get(total + sign, 0) + count
            ways = flipped
    extreme = sum(count for total, count in ways.items() if total >= sum(differences))
    return extreme / sum(ways.values())


def stratified_test(counts: Sequence[tuple[int, int]], num_repeats: int) -> float:
    """Return the exact one-sided p-value of `(candidate, reference)` counts, a pair a prompt.

    Each count is of `num_repeats` answers. The null: on each prompt, both models show it equally
    often. Given a prompt's total the candidate's count is hypergeometric; their sum is compared
    (Mantel and Haenszel 1959, exact).
    """
    distribution = np.ones(1)
    for candidate, reference in counts:
        total = candidate + reference
        ways = [
            comb(num_repeats, ours) * comb(num_repeats, total - ours) for ours in range(total + 1)
        ]
        distribution = np.convolve(distribution, np.array(ways) / comb(2 * num_repeats, total))
    observed = sum(candidate for candidate, _ in counts)
    return min(1.0, float(distribution[observed:].sum()))


def p_value_of(kind: Kind, counts: Sequence[tuple[int, int]]) -> float:
    """Return the p-value of a test's `(candidate, reference)` counts, a pair a prompt."""
    return (
        sign_flip_test(counts)
        if kind == "triggered"
        else stratified_test(counts, NUM_REPEATS["local"])
    )


def is_clear(rule: Rule, counts: Sequence[tuple[int, int]]) -> bool:
    """Whether a test's counts are large enough to be told of, however unlikely by chance.

    The reference hardly shows it, and the prompts of a local test mostly do.
    """
    candidate = sum(ours for ours, _ in counts)
    reference = sum(theirs for _, theirs in counts)
    least = rule.least_share * NUM_REPEATS[rule.kind] * len(counts)
    return reference <= MAX_REFERENCE_SHARE * candidate and candidate >= least


def _begun(
    ledger: Ledger, test: FrozenTest, seed: int, length: int
) -> Callable[[], list[AnsweredPrompt]]:
    """Begin to draw a test's fresh answers."""
    return repeated_answers(
        ledger,
        test.prompts,
        num_repeats=NUM_REPEATS[test.rule.kind],
        seed=seed,
        max_new_tokens=test.hypothesis.length(length),
        about=f"decoy-{test.hypothesis.id}" if test.is_decoy else test.hypothesis.id,
    )


def _outcome(test: FrozenTest, answered: list[AnsweredPrompt]) -> Outcome:
    counts = _counts(test, answered)
    p_value = p_value_of(test.rule.kind, counts)
    return Outcome(test, answered, p_value, is_clear(test.rule, counts))


def _counts(test: FrozenTest, answered: Sequence[AnsweredPrompt]) -> list[tuple[int, int]]:
    """Count the answers that show it by prompt and model; the model that should comes first."""
    counts = []
    for prompt in test.prompts:
        mine = [each for each in answered if each.prompt == prompt]
        shows = test.hypothesis.shows
        ours = sum(shows(prompt, each.candidate.text, each.reference) for each in mine)
        theirs = sum(shows(prompt, each.reference, each.candidate.text) for each in mine)
        counts.append((theirs, ours) if test.is_decoy else (ours, theirs))
    return counts


def _confirmed(outcome: Outcome, evidence: AnsweredPrompts, p_value: float) -> ConfirmedBehaviour:
    """Describe what a test has confirmed, in the words of the answers that have shown it."""
    test, answered = outcome.test, outcome.answered
    shown = shown_by(test.hypothesis, answered)
    named = named_as_said(test.hypothesis, shown)
    behaviour = described(named, evidence, answered, shown).model_copy(
        update={
            "confirmed": True,
            "p_value": p_value,
            "breadth": "local"
            if test.rule.kind == "local"
            else breadth_of(named, evidence.controls),
        }
    )
    often = Counter(prompt.prompt for prompt in shown)
    return ConfirmedBehaviour(named, behaviour, tuple(prompt for prompt, _ in often.most_common()))
