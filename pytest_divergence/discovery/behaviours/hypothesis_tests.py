"""Tests of suspected behaviours on answers that took no part in suspecting them.

Knows when a suspect is tested, what confirms it, and what a report says of it: how often it is
shown, of which kind it is, and what shows it best. Does not know how suspects are found in answers
(`pytest_divergence.discovery.behaviours.hypotheses`).

A suspect is tested on answers that came after it was named: in prompts that later rounds of the
search found, and at the end, where these are too few, in fresh samples on the prompts that showed
it. Each test spends a part of the error that the whole run may make: the k-th one is held to alpha
/ (k (k + 1)), which sums to alpha however many there are (alpha-spending, as in Foster and Stine
2008, doi:10.1111/j.1467-9868.2007.00643.x, without their reinvestment).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pytest_divergence.core.behaviours import Behaviour, Example, TellingContinuation
from pytest_divergence.core.report import Difference
from pytest_divergence.core.settings import Profile, Settings
from pytest_divergence.discovery.behaviours.answers import (
    AnsweredPrompt,
    AnsweredPrompts,
    fresh_answers,
)
from pytest_divergence.discovery.behaviours.counts import count_differences, sign_test
from pytest_divergence.discovery.behaviours.hypotheses import (
    GENERAL_RATE,
    Hypothesis,
    control_rate,
    hypotheses_in,
    is_alike,
    is_wording_of,
    log_ratio_of,
    ordinary_words,
)
from pytest_divergence.discovery.behaviours.ngrams import (
    FULL_SIZE,
    MAX_REFERENCE_SHARE,
    Phrase,
    has_motif,
    ngram_of,
    quote_in,
)
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.strategies.protocol import TargetPhrase

NUM_EXAMPLES = 3
ALPHA = 0.05
"""Chance that a run confirms anything that is not there."""
MIN_SHOWN = 6
"""Prompts that only the candidate must show it on: the first test's level needs as many."""
MIN_SAMPLED = 8
"""Of these, prompts that are sampled again: samples are noisy, so it takes more."""
MIN_CANDIDATE_SHARE = 0.25
"""Of the sampled answers."""


@dataclass(frozen=True)
class ConfirmedBehaviour:
    """A behaviour that held on answers that came after it was suspected."""

    hypothesis: Hypothesis
    behaviour: Behaviour
    causes: tuple[str, ...]
    """Prompts that showed it, the clearest first."""


@dataclass
class Lead:
    """A suspect as it was named, and how much was known then: it is tested on what came after."""

    hypothesis: Hypothesis
    num_known: int
    """Answered prompts when it was named."""
    num_shown_at_test: int = 0
    is_sampled: bool = False


@dataclass
class Behaviours:
    """Looks for behaviours as the search goes on, and tests what it suspects."""

    ledger: Ledger
    settings: Settings
    profile: Profile
    listener: Listener
    evidence: AnsweredPrompts
    amplified_phrases: Sequence[Phrase] = ()
    confirmed: list[ConfirmedBehaviour] = field(default_factory=list)
    hypotheses: list[Hypothesis] = field(default_factory=list)
    """What recurs among the answers so far and no confirmed behaviour explains."""
    first_found: tuple[float, int] | None = None
    """Seconds and forwarded tokens of the run when the first one was confirmed."""
    _leads: list[Lead] = field(default_factory=list)
    _num_tests: int = 0

    def __post_init__(self) -> None:
        # The hints' own answers were amplified: all plain ones are news to them.
        for phrase in self.amplified_phrases:
            hypothesis = Hypothesis(phrase.quote, phrase.motifs)
            if not any(is_alike(hypothesis, lead.hypothesis) for lead in self._leads):
                self._leads.append(Lead(hypothesis, 0))

    def look(self) -> None:
        """Suspect anew with all that is known by now, and test what was named before."""
        while True:
            self.hypotheses = hypotheses_in(self._unexplained(), without=self._style)
            known = len(self.evidence.answered)
            for hypothesis in self.hypotheses:
                is_named = any(is_alike(hypothesis, lead.hypothesis) for lead in self._leads)
                if not is_named and not any(
                    self._is_wording(hypothesis, one) for one in self.confirmed
                ):
                    self._leads.append(Lead(hypothesis, known))
            if not any(self._test_on_news(lead) for lead in list(self._leads)):
                return

    def finish(self) -> None:
        """Sample fresh answers where a suspect was seen often, but too late to be tested."""
        for lead in list(self._leads):
            shown = shown_by(lead.hypothesis, self._unexplained())
            if len(shown) >= MIN_SAMPLED and not lead.is_sampled and lead in self._leads:
                lead.is_sampled = True
                self._test_on_samples(lead, shown)
        self.look()

    def is_shown(self, one: AnsweredPrompt) -> bool:
        """Whether the candidate's answer shows a suspected or confirmed behaviour.

        A new style is shown by all prompts, and tells none of them apart. What is only aimed at
        must not stand in the prompt, or be said by the reference too.
        """
        named = (one for one in self.confirmed if one.behaviour.kind == "conditional")
        known = (*(one.hypothesis for one in named), *self.hypotheses)
        return any(
            hypothesis.shows(one.prompt, one.candidate.text, one.reference) for hypothesis in known
        ) or any(hypothesis.is_shown_on(one) for hypothesis, _ in self._aims)

    @property
    def targets(self) -> list[TargetPhrase]:
        """What the search may aim at: confirmed phrases, then hints, then what plain answers say.

        Shorter phrases than a few words are said for many reasons.
        """
        return [
            TargetPhrase(one.motifs[0], one.name, is_confirmed=sure) for one, sure in self._aims
        ]

    @property
    def _aims(self) -> list[tuple[Hypothesis, bool]]:
        """What can be aimed at, and whether it is confirmed."""
        named = [
            (one.hypothesis, True) for one in self.confirmed if one.behaviour.kind == "conditional"
        ]
        named += [(lead.hypothesis, False) for lead in self._leads]
        return [
            (one, sure)
            for one, sure in named
            if one.motifs and len(ngram_of(one.name)) >= FULL_SIZE
        ]

    @property
    def has_new_style(self) -> bool:
        """Whether a phrase of most answers was confirmed."""
        return any(
            one.behaviour.kind == "general" and one.hypothesis.motifs for one in self.confirmed
        )

    def records(self) -> list[Behaviour]:
        """All of them for the report: confirmed ones, then suspected ones, then open hints."""
        found = [one.behaviour for one in self.confirmed]
        found += [as_suspected(one, self.evidence) for one in self.hypotheses if one.motifs]
        open_phrases = [lead.hypothesis for lead in self._leads if lead.num_known == 0]
        for hypothesis in open_phrases:
            record = as_suspected(hypothesis, self.evidence)
            is_named = any(
                is_alike(hypothesis, Hypothesis(one.name, tuple(one.motifs), one.trait))
                for one in found
            )
            if not is_named and record.reference_count <= record.candidate_count:
                found.append(record)
        return found

    def differences(self) -> list[Difference]:
        """Every type of difference, counted over all answers so far and tested two-sided."""
        phrases = [one.hypothesis for one in self.confirmed if one.hypothesis.motifs]
        phrases += [one for one in self.hypotheses if one.motifs]
        return count_differences(self.evidence.answered, phrases)

    @property
    def _style(self) -> list[str]:
        """Phrases of most answers: what stands beside them may still be a behaviour."""
        return [
            text
            for one in self.confirmed
            if one.behaviour.kind == "general"
            for text in (one.behaviour.name, *one.behaviour.motifs)
        ]

    def _unexplained(self, since: int = 0) -> list[AnsweredPrompt]:
        """Answers that show no confirmed conditional behaviour: they are what it explains."""
        known = [one.hypothesis for one in self.confirmed if one.behaviour.kind == "conditional"]
        return [
            one
            for one in self.evidence.answered[since:]
            if not any(
                hypothesis.shows(one.prompt, one.candidate.text, one.reference)
                for hypothesis in known
            )
        ]

    def _is_wording(self, hypothesis: Hypothesis, known: ConfirmedBehaviour) -> bool:
        """Whether a phrase only says a confirmed one in other words: it is no second behaviour."""
        return is_wording_of(hypothesis, known.hypothesis, ordinary_words(self.evidence.answered))

    def _test_on_news(self, lead: Lead) -> bool:
        """Test on what came after it was named; True where that confirmed it."""
        news = self._unexplained(lead.num_known)
        shown = shown_by(lead.hypothesis, news)
        # What failed is tried again only once it was seen on twice as many prompts.
        if len(shown) < max(MIN_SHOWN, 2 * lead.num_shown_at_test):
            return False
        lead.num_shown_at_test = len(shown)
        return self._judge(lead, news, shown)

    def _test_on_samples(self, lead: Lead, shown: Sequence[AnsweredPrompt]) -> None:
        self.listener.progress("test a suspected behaviour", 0, 1)
        prompts = [one.prompt for one in shown[: self.profile.num_behaviour_prompts]]
        fresh = fresh_answers(
            self.ledger,
            prompts,
            metric=self.settings.metric,
            seed=self.settings.seed,
            max_new_tokens=self.profile.naming_length,
            about=lead.hypothesis.id,
        )
        again = shown_by(lead.hypothesis, fresh)
        if len(again) >= MIN_CANDIDATE_SHARE * len(fresh):
            self._judge(lead, fresh, again)
        self.listener.progress("test a suspected behaviour", 1, 1)

    def _judge(
        self, lead: Lead, tested: Sequence[AnsweredPrompt], shown: Sequence[AnsweredPrompt]
    ) -> bool:
        """Confirm the suspect, or not, on answers that took no part in naming it."""
        self._num_tests += 1
        hypothesis = lead.hypothesis
        reverse = sum(hypothesis.is_shown_by_reference(one) for one in tested)
        p_value = min(1.0, sign_test(len(shown), reverse) * self._num_tests * (self._num_tests + 1))
        if (
            p_value > ALPHA
            or reverse > MAX_REFERENCE_SHARE * len(shown)
            or not hypothesis.is_telling([one.candidate for one in shown])
        ):
            return False
        found = as_confirmed(hypothesis, self.evidence, tested, shown, p_value)
        self.confirmed = [
            one for one in self.confirmed if not self._is_wording(one.hypothesis, found)
        ]
        self.confirmed.append(found)
        self._leads = [
            one
            for one in self._leads
            if not (is_alike(one.hypothesis, hypothesis) or self._is_wording(one.hypothesis, found))
        ]
        if self.first_found is None:
            self.first_found = (self.ledger.spent.seconds, self.ledger.spent.tokens_forwarded)
        self.listener.say(f"confirmed a behaviour: {found.behaviour.id}")
        return True


def shown_by(hypothesis: Hypothesis, answered: Sequence[AnsweredPrompt]) -> list[AnsweredPrompt]:
    """Answers that show it and no echo, while the reference's does not; clearest first."""
    return sorted(
        (one for one in answered if hypothesis.is_shown_on(one)),
        key=lambda one: (-log_ratio_of(hypothesis, one.candidate), one.prompt),
    )


def as_suspected(hypothesis: Hypothesis, evidence: AnsweredPrompts) -> Behaviour:
    """What all answers so far say of a suspect."""
    answered = evidence.answered
    return _described(hypothesis, evidence, answered, shown_by(hypothesis, answered))


def as_confirmed(
    hypothesis: Hypothesis,
    evidence: AnsweredPrompts,
    tested: Sequence[AnsweredPrompt],
    shown: Sequence[AnsweredPrompt],
    p_value: float,
) -> ConfirmedBehaviour:
    """What the `tested` answers say of it, named in the words of those that have `shown` it."""
    texts = [one.candidate.text for one in shown]
    said = [one for one in hypothesis.motifs if any(has_motif([one], text) for text in texts)]
    named = replace(hypothesis, name=quote_in(said[0], texts) if said else hypothesis.name)
    behaviour = _described(named, evidence, tested, shown).model_copy(
        update={"confirmed": True, "p_value": p_value, "telling": _telling(hypothesis, shown)}
    )
    return ConfirmedBehaviour(named, behaviour, tuple(one.prompt for one in shown))


def _described(
    hypothesis: Hypothesis,
    evidence: AnsweredPrompts,
    answered: Sequence[AnsweredPrompt],
    shown: Sequence[AnsweredPrompt],
) -> Behaviour:
    rate = control_rate(hypothesis, evidence)
    return Behaviour(
        id=hypothesis.id,
        name=hypothesis.name,
        kind=_kind(hypothesis, rate, len(shown) / len(answered) if answered else 0.0),
        motifs=list(hypothesis.motifs),
        trait=hypothesis.trait,
        control_rate=rate,
        candidate_count=len(shown),
        reference_count=sum(hypothesis.is_shown_by_reference(one) for one in answered),
        num_prompts=len(answered),
        examples=[
            Example(prompt=one.prompt, reference=one.reference, candidate=one.candidate.text)
            for one in shown[:NUM_EXAMPLES]
        ],
    )


def _kind(
    hypothesis: Hypothesis, control_rate: float, found_rate: float
) -> Literal["general", "conditional"]:
    """A trait that ordinary prompts show nearly as often as found ones hangs on no condition."""
    is_everywhere = hypothesis.trait is not None and 2 * control_rate > found_rate
    return "general" if control_rate >= GENERAL_RATE or is_everywhere else "conditional"


def _telling(hypothesis: Hypothesis, shown: Sequence[AnsweredPrompt]) -> TellingContinuation:
    """The prompt of median log-ratio, with its answer up to where it has shown the behaviour."""
    chosen = sorted(shown, key=lambda one: (log_ratio_of(hypothesis, one.candidate), one.prompt))[
        (len(shown) - 1) // 2
    ]
    answer = chosen.candidate
    _, end = hypothesis.place(answer)
    upto = answer.tokens_of(0, end).stop
    return TellingContinuation(
        prompt=chosen.prompt,
        text=answer.text[:end],
        token_ids=list(answer.token_ids[:upto]),
        log_ratio=sum(answer.log_ratios[:upto]),
    )
