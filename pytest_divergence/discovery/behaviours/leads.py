"""Leads: phrases and traits that a search watches, aims at and takes out, but does not confirm.

A lead is supported once several prompts that came after it was named show it. Supported leads steer
the search like knowledge; whether they hold is decided once, at its end
(`pytest_divergence.discovery.behaviours.hypothesis_tests`).
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.report import Difference, FirstFound
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.counts import count_differences
from pytest_divergence.discovery.behaviours.descriptions import (
    as_suspected,
    is_everywhere,
    named_as_said,
    shown_by,
)
from pytest_divergence.discovery.behaviours.hypotheses import (
    MIN_PEAK,
    Hypothesis,
    as_tested,
    control_rate,
    core_of,
    hypotheses_in,
    is_alike,
    is_wording_of,
    log_ratio_of,
    new_words_of,
    ordinary_words,
    said_words,
)
from pytest_divergence.discovery.behaviours.ngrams import (
    FULL_SIZE,
    MAX_REFERENCE_SHARE,
    Phrase,
    beginning_of,
    ngram_of,
)
from pytest_divergence.discovery.behaviours.traits import is_style_trait
from pytest_divergence.discovery.engines.base import Spent
from pytest_divergence.discovery.strategies.protocol import TargetPhrase

NUM_BEGINNINGS = 4
MIN_SHOWN = 6
"""Fewest later prompts on which only the candidate shows a lead, for it to be supported."""


@dataclass(frozen=True)
class Lead:
    """A hypothesis as it was named, and how much was known then."""

    hypothesis: Hypothesis
    num_known: int
    """Answered prompts when it was named; 0 for a phrase of amplified answers."""


@dataclass(frozen=True)
class SupportedLead:
    """A lead that later prompts show too."""

    hypothesis: Hypothesis
    is_common: bool
    """Whether ordinary prompts show it about as often."""


@dataclass(frozen=True)
class _Shown:
    """A lead with the prompts that show it."""

    hypothesis: Hypothesis
    prompts: frozenset[str]
    count: int
    """Prompts that show it less those that show it reversed; 0 unless it is telling."""
    probe_count: int
    """Questions about its own words, counted alike."""
    nats: float
    """By which the candidate is surer of it, over all prompts that show it; 0 for a trait."""

    @classmethod
    def of(
        cls,
        hypothesis: Hypothesis,
        answered: Sequence[AnsweredPrompt],
        probed: Sequence[AnsweredPrompt],
    ) -> _Shown:
        """Look for a lead in all answers, and in those to questions about leads' words.

        By the wordings that it is tested by, which a question about the others does not hold.
        """
        core = core_of(hypothesis, answered)

        def count(shown: Sequence[AnsweredPrompt], rows: Sequence[AnsweredPrompt]) -> int:
            reverse = sum(map(core.is_shown_by_reference, rows))
            is_telling = core.is_telling([row.candidate for row in shown])
            return len(shown) - reverse if is_telling else 0

        shown = shown_by(core, answered)
        prompts = frozenset(row.prompt for row in shown)
        probe_count = count(shown_by(core, probed), probed)
        words = replace(core, name=" ".join(core.motifs[:1]))  # of a long quote, these alone
        nats = sum(log_ratio_of(words, row.candidate) for row in shown) if core.motifs else 0.0
        return cls(hypothesis, prompts, count(shown, answered), probe_count, nats)

    def rank(self) -> tuple[int, int, str]:
        """Return its place among leads: what more prompts show comes first."""
        return -self.count, -self.probe_count, self.hypothesis.id

    def tells_more_than(self, known: _Shown) -> bool:
        """Whether it is the better name of what both are: what is said, in its telling words."""
        if self.count <= 0 or not self.hypothesis.motifs:
            return False
        trait = known.hypothesis.trait
        return is_style_trait(trait) if trait is not None else self.nats > known.nats

    def is_in(self, known: _Shown, ordinary: Collection[str]) -> bool:
        """Whether it is a wording of a known lead, or mostly the same prompts show both."""
        both, either = self.prompts & known.prompts, self.prompts | known.prompts
        return (
            is_alike(self.hypothesis, known.hypothesis)
            or is_wording_of(self.hypothesis, known.hypothesis, ordinary)
            or 2 * len(both) > len(either)
        )

    def joined(self, other: _Shown, said: Collection[str]) -> _Shown:
        """Return it with the other's wordings, and the name that both share, as its own."""
        shared = new_words_of(other.hypothesis, self.hypothesis, said)
        motifs = dict.fromkeys((*self.hypothesis.motifs, *other.hypothesis.motifs, *shared))
        whole = replace(self.hypothesis, motifs=tuple(motifs))
        return replace(
            self,
            hypothesis=whole,
            prompts=self.prompts | other.prompts,
            nats=self.nats + other.nats,
        )


@dataclass
class Leads:
    """Names leads during a search, and knows which of them its later prompts support."""

    spent: Spent
    evidence: AnsweredPrompts
    amplified_phrases: Sequence[Phrase] = ()
    amplified_answers: Sequence[str] = ()
    supported: list[SupportedLead] = field(default_factory=list)
    hypotheses: list[Hypothesis] = field(default_factory=list)
    """Hypotheses from the answers so far that no supported lead explains."""
    first_named: FirstFound | None = None
    """Work of the run until the first lead was named."""
    num_watched: int = 0
    """Leads that were ever named."""
    _open: list[Lead] = field(default_factory=list)
    _weights: dict[tuple[Hypothesis, int], float] = field(default_factory=dict)
    """Median nats of a short phrase, by the number of answers that it was looked for in."""

    def __post_init__(self) -> None:
        # Hints come from amplified answers, so every plain answer is new to them.
        for phrase in self.amplified_phrases:
            self._name(Hypothesis(phrase.quote, phrase.motifs), 0)

    def look(self) -> None:
        """Form hypotheses from all answers so far, and see which leads later answers support."""
        while True:
            self.hypotheses = hypotheses_in(self._unexplained(), without=self._common)
            num_known = len(self.evidence.answered)
            for hypothesis in self._new:
                self._name(hypothesis, num_known)
            if not any(self._is_supported(lead) for lead in list(self._open)):
                return

    def is_shown(self, answered: AnsweredPrompt) -> bool:
        """Whether the candidate's answer shows a lead.

        What is common does not count, because all prompts show it. A phrase that is only aimed at
        must be in neither the prompt nor the reference's answer.
        """
        return any(
            hypothesis.shows(answered.prompt, answered.candidate.text, answered.reference)
            for hypothesis in (*self._aimable, *self.hypotheses)
        ) or any(hypothesis.is_shown_on(answered) for hypothesis, _ in self._aims)

    @property
    def targets(self) -> list[TargetPhrase]:
        """Phrases that the search may aim at: supported ones, hints, then those of plain answers.

        Short ones are left out, since they are said for many reasons, but for names.
        """
        return [
            TargetPhrase(
                hypothesis.motifs[0],
                hypothesis.name,
                is_supported=is_supported,
                wordings=hypothesis.motifs[1:],
            )
            for hypothesis, is_supported in self._aims
        ]

    def beginnings(self, motif: str) -> list[str]:
        """Return what stood before a phrase in its sentence, in plain and amplified answers.

        Then what stood before its first words, one of them new: a name is said in sentences of many
        forms.
        """
        plain = (*self.evidence.answered, *self.evidence.probed)
        texts = [*(row.candidate.text for row in plain), *self.amplified_answers]
        said = said_words(self.evidence.answered)
        words = ngram_of(motif)
        starts = [words[:size] for size in range(len(words) - 1, 0, -1)]
        runs = [motif, *(" ".join(start) for start in starts if not said.issuperset(start))]
        found = (beginning_of(run, text) for run in runs for text in texts)
        return [text for text in dict.fromkeys(found) if text][:NUM_BEGINNINGS]

    @property
    def ranked(self) -> list[Hypothesis]:
        """All leads that a prompt shows, the one that most prompts show first.

        Those that only questions about their own words show come last.

        No wording twice, nor what mostly the same prompts show: it is a part of the same behaviour.
        Phrases that share a name, a word that neither the reference nor a shipped prompt says, are
        one behaviour in several wordings, and so is the name alone; also those that only amplified
        answers have shown, and not what most answers show.
        """
        answered = self.evidence.answered
        probed = self.evidence.probed
        # All answers may give a lead of the first ones its better words.
        named = [*self._named, *self._new]
        shown = [_Shown.of(hypothesis, answered, probed) for hypothesis in named]
        words = ordinary_words(answered)
        said = said_words(answered)
        common = {lead.hypothesis.id for lead in self.supported if lead.is_common}
        chosen = list[_Shown]()
        for lead in sorted(shown, key=_Shown.rank):
            known = next((at for at, other in enumerate(chosen) if lead.is_in(other, words)), None)
            if known is None:
                related = (
                    at
                    for at, other in enumerate(chosen)
                    if common.isdisjoint({lead.hypothesis.id, other.hypothesis.id})
                    and new_words_of(lead.hypothesis, other.hypothesis, said)
                )
                if (at := next(related, None)) is not None:
                    chosen[at] = chosen[at].joined(lead, said)
                elif lead.count + lead.probe_count > 0:
                    chosen.append(lead)
            elif lead.tells_more_than(chosen[known]):
                chosen[known] = lead
        return [lead.hypothesis for lead in chosen]

    @property
    def has_new_style(self) -> bool:
        """Whether most answers show a supported phrase."""
        return any(lead.is_common and lead.hypothesis.motifs for lead in self.supported)

    def records(self, confirmed: Sequence[Behaviour]) -> list[Behaviour]:
        """Return all behaviours for the report: `confirmed` ones, then leads that are not."""
        found = list(confirmed)
        named = [lead.hypothesis for lead in self.supported]
        named += [hypothesis for hypothesis in self.hypotheses if hypothesis.motifs]
        hints = [lead.hypothesis for lead in self._open if lead.num_known == 0]
        for hypothesis in (*named, *hints):
            record = as_suspected(hypothesis, self.evidence)
            is_named = any(is_alike(hypothesis, as_tested(known)) for known in found)
            is_reversed = record.reference_count > record.candidate_count
            if not is_named and not (hypothesis in hints and is_reversed):
                found.append(record)
        return found

    def differences(self) -> list[Difference]:
        """Count every type of difference over all answers so far, tested two-sided."""
        named = (*(lead.hypothesis for lead in self.supported), *self.hypotheses)
        phrases = [hypothesis for hypothesis in named if hypothesis.motifs]
        return count_differences(self.evidence.answered, phrases)

    @property
    def _aims(self) -> list[tuple[Hypothesis, bool]]:
        """Hypotheses to aim at, and whether they are supported."""
        named = [(hypothesis, True) for hypothesis in self._aimable]
        named += [(lead.hypothesis, False) for lead in self._open]
        return [
            (hypothesis, is_supported)
            for hypothesis, is_supported in named
            if hypothesis.motifs and self._says_enough(hypothesis)
        ]

    def _says_enough(self, hypothesis: Hypothesis) -> bool:
        """Whether a phrase has a few words, or weighs as much as so many telling ones."""
        if len(ngram_of(hypothesis.name)) >= FULL_SIZE:
            return True
        # Each scored prompt asks; the answer changes with the evidence alone.
        key = hypothesis, len(self.evidence.answered)
        if key not in self._weights:
            core = core_of(hypothesis, self.evidence.answered)
            shown = shown_by(core, self.evidence.answered)
            weights = [log_ratio_of(core, prompt.candidate) for prompt in shown]
            self._weights[key] = statistics.median(weights) if weights else 0.0
        return self._weights[key] >= FULL_SIZE * MIN_PEAK

    @property
    def _aimable(self) -> list[Hypothesis]:
        return [lead.hypothesis for lead in self.supported if not lead.is_common]

    @property
    def _new(self) -> list[Hypothesis]:
        """Hypotheses from the answers so far that say no supported phrase in other words."""
        return [
            hypothesis
            for hypothesis in self.hypotheses
            if not any(self._is_wording(hypothesis, lead.hypothesis) for lead in self.supported)
        ]

    @property
    def _common(self) -> list[str]:
        """Phrases of most answers: others beside them may still be behaviours."""
        return [
            text
            for lead in self.supported
            if lead.is_common
            for text in (lead.hypothesis.name, *lead.hypothesis.motifs)
        ]

    @property
    def _named(self) -> list[Hypothesis]:
        """Hypotheses of all leads, supported ones first."""
        supported = [lead.hypothesis for lead in self.supported]
        return [*supported, *(lead.hypothesis for lead in self._open)]

    def _name(self, hypothesis: Hypothesis, num_known: int) -> None:
        # By the words that it was found by: those beside them may be known for something else.
        counted = replace(hypothesis, motifs=hypothesis.motifs[:1])
        if not any(is_alike(counted, known) for known in self._named):
            self._open.append(Lead(hypothesis, num_known))
            self.num_watched += 1
            self.first_named = self.first_named or self.spent.so_far

    def _unexplained(self, since: int = 0) -> list[AnsweredPrompt]:
        """Return the prompts whose answers no supported lead explains, common ones aside."""
        known = self._aimable
        return [
            prompt
            for prompt in self.evidence.answered[since:]
            if not any(
                hypothesis.shows(prompt.prompt, prompt.candidate.text, prompt.reference)
                for hypothesis in known
            )
        ]

    def _is_wording(self, hypothesis: Hypothesis, known: Hypothesis) -> bool:
        """Whether a phrase only says a known one in other words."""
        return is_wording_of(hypothesis, known, ordinary_words(self.evidence.answered))

    def _is_supported(self, lead: Lead) -> bool:
        """Whether answers that came after it was named support a lead; if so, note that."""
        news = self._unexplained(lead.num_known)
        hypothesis, shown = lead.hypothesis, shown_by(lead.hypothesis, news)
        reverse = sum(map(hypothesis.is_shown_by_reference, news))
        is_telling = hypothesis.is_telling([prompt.candidate for prompt in shown])
        if len(shown) < MIN_SHOWN or reverse > MAX_REFERENCE_SHARE * len(shown) or not is_telling:
            return False
        rate = control_rate(hypothesis, self.evidence)
        is_common = is_everywhere(hypothesis, rate, len(shown) / len(news))
        found = SupportedLead(named_as_said(hypothesis, shown), is_common)
        self.supported = [
            known
            for known in self.supported
            if not self._is_wording(known.hypothesis, found.hypothesis)
        ]
        self.supported.append(found)
        self._open = [
            other
            for other in self._open
            if not is_alike(other.hypothesis, hypothesis)
            and not self._is_wording(other.hypothesis, found.hypothesis)
        ]
        return True
