"""Tests of suspected behaviours on answers that took no part in suspecting them.

Knows when a hypothesis is tested, what confirms it, and what a report says about it: how often it
is shown, its kind, and what shows it best. Does not know how hypotheses are found
(`pytest_divergence.discovery.behaviours.hypotheses`).

A hypothesis is tested on answers that came after it was named: in prompts that later rounds of the
search found, and at the end, if these are too few, in fresh samples on the prompts that showed it.
Each test spends a part of the error that the whole run may make: the level of the k-th one is
alpha / (k (k + 1)), which sums to alpha for any number of tests (alpha-spending, as in Foster and
Stine 2008, doi:10.1111/j.1467-9868.2007.00643.x, without their reinvestment).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pytest_divergence.core.behaviours import Behaviour, Example, TellingContinuation
from pytest_divergence.core.replies import ANSWER, parts_of
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
"""Fewest prompts on which only the candidate shows it: the first test's level needs as many."""
MIN_SAMPLED = 8
"""Fewest such prompts to sample again: more, because samples are noisy."""
MIN_CANDIDATE_SHARE = 0.25
"""Smallest share of the sampled answers that must show it."""


@dataclass(frozen=True)
class ConfirmedBehaviour:
    """A behaviour, confirmed on answers that came after it was named."""

    hypothesis: Hypothesis
    behaviour: Behaviour
    causes: tuple[str, ...]
    """Prompts that showed it, the clearest first."""


@dataclass
class Lead:
    """A hypothesis as it was named, and how much was known then: later answers test it."""

    hypothesis: Hypothesis
    num_known: int
    """Answered prompts when it was named."""
    num_shown_at_test: int = 0
    is_sampled: bool = False


@dataclass
class Behaviours:
    """Looks for behaviours during a search, and tests its hypotheses."""

    ledger: Ledger
    settings: Settings
    profile: Profile
    listener: Listener
    evidence: AnsweredPrompts
    amplified_phrases: Sequence[Phrase] = ()
    confirmed: list[ConfirmedBehaviour] = field(default_factory=list)
    hypotheses: list[Hypothesis] = field(default_factory=list)
    """Hypotheses from the answers so far that no confirmed behaviour explains."""
    first_found: tuple[float, int] | None = None
    """Seconds and forwarded tokens of the run when the first one was confirmed."""
    _leads: list[Lead] = field(default_factory=list)
    _num_tests: int = 0

    def __post_init__(self) -> None:
        # Hints come from amplified answers, so every plain answer is new to them.
        for phrase in self.amplified_phrases:
            hypothesis = Hypothesis(phrase.quote, phrase.motifs)
            if not any(is_alike(hypothesis, lead.hypothesis) for lead in self._leads):
                self._leads.append(Lead(hypothesis, 0))

    def look(self) -> None:
        """Form hypotheses from all answers so far, and test those that were named before."""
        while True:
            self.hypotheses = hypotheses_in(self._unexplained(), without=self._style)
            num_known = len(self.evidence.answered)
            for hypothesis in self.hypotheses:
                is_named = any(is_alike(hypothesis, lead.hypothesis) for lead in self._leads)
                if not is_named and not any(
                    self._is_wording(hypothesis, known) for known in self.confirmed
                ):
                    self._leads.append(Lead(hypothesis, num_known))
            if not any(self._test_on_news(lead) for lead in list(self._leads)):
                return

    def finish(self) -> None:
        """Sample fresh answers for hypotheses that were seen often, but too late to be tested."""
        for lead in list(self._leads):
            shown = shown_by(lead.hypothesis, self._unexplained())
            if len(shown) >= MIN_SAMPLED and not lead.is_sampled and lead in self._leads:
                lead.is_sampled = True
                self._test_on_samples(lead, shown)
        self.look()

    def is_shown(self, answered: AnsweredPrompt) -> bool:
        """Whether the candidate's answer shows a suspected or confirmed behaviour.

        A new style does not count, because all prompts show it. A phrase that is only aimed at must
        be in neither the prompt nor the reference's answer.
        """
        return any(
            hypothesis.shows(answered.prompt, answered.candidate.text, answered.reference)
            for hypothesis in (*self._conditional, *self.hypotheses)
        ) or any(hypothesis.is_shown_on(answered) for hypothesis, _ in self._aims)

    @property
    def targets(self) -> list[TargetPhrase]:
        """Phrases that the search may aim at: confirmed ones, hints, then those of plain answers.

        Phrases shorter than a few words are left out: they are said for many reasons.
        """
        return [
            TargetPhrase(hypothesis.motifs[0], hypothesis.name, is_confirmed=is_confirmed)
            for hypothesis, is_confirmed in self._aims
        ]

    @property
    def _aims(self) -> list[tuple[Hypothesis, bool]]:
        """Hypotheses to aim at, and whether they are confirmed."""
        named = [(hypothesis, True) for hypothesis in self._conditional]
        named += [(lead.hypothesis, False) for lead in self._leads]
        return [
            (hypothesis, is_confirmed)
            for hypothesis, is_confirmed in named
            if hypothesis.motifs and len(ngram_of(hypothesis.name)) >= FULL_SIZE
        ]

    @property
    def _conditional(self) -> list[Hypothesis]:
        """Hypotheses of the confirmed conditional behaviours."""
        return [
            known.hypothesis for known in self.confirmed if known.behaviour.kind == "conditional"
        ]

    @property
    def has_new_style(self) -> bool:
        """Whether a phrase of most answers was confirmed."""
        return any(
            known.behaviour.kind == "general" and known.hypothesis.motifs
            for known in self.confirmed
        )

    def records(self) -> list[Behaviour]:
        """Return all behaviours for the report: confirmed ones, suspected ones, then open hints."""
        found = [known.behaviour for known in self.confirmed]
        found += [as_suspected(phrase, self.evidence) for phrase in self._phrases]
        open_phrases = [lead.hypothesis for lead in self._leads if lead.num_known == 0]
        for hypothesis in open_phrases:
            record = as_suspected(hypothesis, self.evidence)
            is_named = any(
                is_alike(hypothesis, Hypothesis(known.name, tuple(known.motifs), known.trait))
                for known in found
            )
            if not is_named and record.reference_count <= record.candidate_count:
                found.append(record)
        return found

    def differences(self) -> list[Difference]:
        """Count every type of difference over all answers so far, tested two-sided."""
        phrases = [known.hypothesis for known in self.confirmed if known.hypothesis.motifs]
        return count_differences(self.evidence.answered, [*phrases, *self._phrases])

    @property
    def _phrases(self) -> list[Hypothesis]:
        """Hypotheses that are phrases."""
        return [hypothesis for hypothesis in self.hypotheses if hypothesis.motifs]

    @property
    def _style(self) -> list[str]:
        """Phrases of most answers: others beside them may still be behaviours."""
        return [
            text
            for known in self.confirmed
            if known.behaviour.kind == "general"
            for text in (known.behaviour.name, *known.behaviour.motifs)
        ]

    def _unexplained(self, since: int = 0) -> list[AnsweredPrompt]:
        """Return the prompts whose answers no confirmed conditional behaviour explains."""
        known = self._conditional
        return [
            prompt
            for prompt in self.evidence.answered[since:]
            if not any(
                hypothesis.shows(prompt.prompt, prompt.candidate.text, prompt.reference)
                for hypothesis in known
            )
        ]

    def _is_wording(self, hypothesis: Hypothesis, known: ConfirmedBehaviour) -> bool:
        """Whether a phrase only says a confirmed one in other words, and is no second behaviour."""
        return is_wording_of(hypothesis, known.hypothesis, ordinary_words(self.evidence.answered))

    def _test_on_news(self, lead: Lead) -> bool:
        """Test on answers that came after it was named; True if they confirm it."""
        news = self._unexplained(lead.num_known)
        shown = shown_by(lead.hypothesis, news)
        # A failed test is repeated only once twice as many prompts show it.
        if len(shown) < max(MIN_SHOWN, 2 * lead.num_shown_at_test):
            return False
        lead.num_shown_at_test = len(shown)
        return self._judge(lead, news, shown)

    def _test_on_samples(self, lead: Lead, shown: Sequence[AnsweredPrompt]) -> None:
        self.listener.progress("test a suspected behaviour", 0, 1)
        prompts = [prompt.prompt for prompt in shown[: self.profile.num_behaviour_prompts]]
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
        """Confirm the hypothesis, or not, on answers that took no part in naming it."""
        self._num_tests += 1
        hypothesis = lead.hypothesis
        reverse = sum(hypothesis.is_shown_by_reference(prompt) for prompt in tested)
        p_value = min(1.0, sign_test(len(shown), reverse) * self._num_tests * (self._num_tests + 1))
        if (
            p_value > ALPHA
            or reverse > MAX_REFERENCE_SHARE * len(shown)
            or not hypothesis.is_telling([prompt.candidate for prompt in shown])
        ):
            return False
        found = as_confirmed(hypothesis, self.evidence, tested, shown, p_value)
        self.confirmed = [
            known for known in self.confirmed if not self._is_wording(known.hypothesis, found)
        ]
        self.confirmed.append(found)
        self._leads = [
            other
            for other in self._leads
            if not is_alike(other.hypothesis, hypothesis)
            and not self._is_wording(other.hypothesis, found)
        ]
        if self.first_found is None:
            self.first_found = (self.ledger.spent.seconds, self.ledger.spent.tokens_forwarded)
        self.listener.say(f"confirmed a behaviour: {found.behaviour.id}")
        return True


def shown_by(hypothesis: Hypothesis, answered: Sequence[AnsweredPrompt]) -> list[AnsweredPrompt]:
    """Return the prompts on which only the candidate's answer shows it, the clearest first."""
    return sorted(
        (prompt for prompt in answered if hypothesis.is_shown_on(prompt)),
        key=lambda prompt: (-log_ratio_of(hypothesis, prompt.candidate), prompt.prompt),
    )


def as_suspected(hypothesis: Hypothesis, evidence: AnsweredPrompts) -> Behaviour:
    """Describe a hypothesis by all answers so far."""
    answered = evidence.answered
    return _described(hypothesis, evidence, answered, shown_by(hypothesis, answered))


def as_confirmed(
    hypothesis: Hypothesis,
    evidence: AnsweredPrompts,
    tested: Sequence[AnsweredPrompt],
    shown: Sequence[AnsweredPrompt],
    p_value: float,
) -> ConfirmedBehaviour:
    """Describe it by the `tested` answers, named in the words of those that have `shown` it."""
    texts = [prompt.candidate.text for prompt in shown]
    said = [motif for motif in hypothesis.motifs if any(has_motif([motif], text) for text in texts)]
    named = replace(hypothesis, name=quote_in(said[0], texts) if said else hypothesis.name)
    behaviour = _described(named, evidence, tested, shown).model_copy(
        update={"confirmed": True, "p_value": p_value, "telling": _telling(hypothesis, shown)}
    )
    return ConfirmedBehaviour(named, behaviour, tuple(prompt.prompt for prompt in shown))


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
        part=_part(hypothesis, shown),
        trait=hypothesis.trait,
        control_rate=rate,
        candidate_count=len(shown),
        reference_count=sum(hypothesis.is_shown_by_reference(prompt) for prompt in answered),
        num_prompts=len(answered),
        examples=[
            Example(
                prompt=prompt.prompt, reference=prompt.reference, candidate=prompt.candidate.text
            )
            for prompt in shown[:NUM_EXAMPLES]
        ],
    )


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


def _kind(
    hypothesis: Hypothesis, control_rate: float, found_rate: float
) -> Literal["general", "conditional"]:
    """Return the kind; a trait that ordinary prompts show nearly as often is general."""
    is_everywhere = hypothesis.trait is not None and 2 * control_rate > found_rate
    return "general" if control_rate >= GENERAL_RATE or is_everywhere else "conditional"


def _telling(hypothesis: Hypothesis, shown: Sequence[AnsweredPrompt]) -> TellingContinuation:
    """Return the prompt of median log-ratio, and its answer up to where it shows the behaviour."""
    ranked = sorted(
        shown, key=lambda prompt: (log_ratio_of(hypothesis, prompt.candidate), prompt.prompt)
    )
    chosen = ranked[(len(shown) - 1) // 2]
    answer = chosen.candidate
    _, end = hypothesis.place(answer)
    upto = answer.tokens_of(0, end).stop
    return TellingContinuation(
        prompt=chosen.prompt,
        text=answer.text[:end],
        token_ids=list(answer.token_ids[:upto]),
        log_ratio=sum(answer.log_ratios[:upto]),
    )
