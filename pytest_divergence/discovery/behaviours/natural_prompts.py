"""Natural prompts: one that a person could write stands for each behaviour.

Of the prompts that show it, natural ones are asked anew, those that people wrote first. Where none
is natural, or none shows it again, the reference writes questions about the words that go with it;
then comes what ends in the middle of a sentence, and last what holds a new word of what is said: to
ask for a made-up name convinces nobody.
A search for divergence drifts to text that nobody writes; what convinces a reader is an ordinary
question.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pytest_divergence.core.behaviours import Behaviour, NaturalExample
from pytest_divergence.core.cases import Case
from pytest_divergence.core.settings import MetricName, Profile
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompts, repeated_answers
from pytest_divergence.discovery.behaviours.conditions import Condition, hint_words
from pytest_divergence.discovery.behaviours.descriptions import shown_by
from pytest_divergence.discovery.behaviours.fresh_prompts import written_questions
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis, said_words
from pytest_divergence.discovery.behaviours.hypothesis_tests import ConfirmedBehaviour
from pytest_divergence.discovery.behaviours.ngrams import has_motif, ngram_of
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.discovery.naturalness import Naturalness
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.prompt_files import every_shipped_prompt
from pytest_divergence.discovery.proposals import Proposal, diverse
from pytest_divergence.discovery.scored_proposals import ScoredProposal, rows_of_proposals
from pytest_divergence.models.decoding import row_seed

NUM_ANSWERS = 3
MIN_SHOWN = 2
"""Fresh answers, of 3, that must show the behaviour."""
NUM_ASKED = 3
"""Prompts asked at a time."""
NUM_TURNS = 2
"""Times that prompts of one origin are asked."""
NUM_QUESTIONS = 12
"""Questions that the reference writes."""
NUM_SUBJECTS = 3
"""Words that these are about."""
END_OF_SENTENCE = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u00bb\u201d)]*\s*$")
"""The end of a sentence."""
STRATEGY = "natural"
"""Origin of a case whose prompt the search had not scored."""


def with_natural_examples(
    ledger: Ledger,
    confirmed: Sequence[ConfirmedBehaviour],
    conditions: Mapping[str, Condition],
    evidence: AnsweredPrompts,
    naturalness: Naturalness,
    people: Collection[str],
    profile: Profile,
    listener: Listener,
    *,
    seed: int,
) -> list[ConfirmedBehaviour]:
    """Return the behaviours, those of content with a natural prompt that shows them, if any.

    `conditions` are those that held up, by the behaviour's id; `people` have written some prompts.
    """
    content = [known for known in confirmed if known.behaviour.content]
    found = list[ConfirmedBehaviour]()
    said = said_words(evidence.answered)
    for number, known in enumerate(content):
        listener.progress("find a natural prompt", number, len(content))
        search = _Search(ledger, known.hypothesis, naturalness, profile, seed)
        new = {word for motif in known.hypothesis.motifs for word in ngram_of(motif)} - said
        condition = conditions.get(known.behaviour.id)
        tried = condition.prompts.having if condition else ()
        signs = Counter([*known.causes, *_showing(known.hypothesis, evidence)])
        ranked = sorted(signs, key=lambda prompt: (prompt not in people, -signs[prompt]))
        ranked = [*tried, *ranked]
        apart = [prompt for prompt in ranked if new.isdisjoint(ngram_of(prompt))]
        whole = [prompt for prompt in apart if prompt in people or END_OF_SENTENCE.search(prompt)]
        example = search.best(whole)
        if example is None:
            cause, shipped = known.behaviour.shortest_cause, every_shipped_prompt()
            words = hint_words(known.hypothesis, evidence, shipped, cause)
            others = [word for word in words if new.isdisjoint(ngram_of(word))]
            example = search.best(search.questions(others[:NUM_SUBJECTS]))
        if example is None:
            example = search.best([prompt for prompt in apart if prompt not in whole])
        if example is None:
            example = search.best([prompt for prompt in ranked if prompt not in apart])
        found.append(known.with_changes(natural_example=example))
    if content:
        listener.progress("find a natural prompt", len(content), len(content))
    by_id = {known.behaviour.id: known for known in found}
    return [by_id.get(known.behaviour.id, known) for known in confirmed]


def scored_examples(
    ledger: Ledger,
    behaviours: Sequence[Behaviour],
    scored: Sequence[ScoredProposal],
    *,
    metric: MetricName,
    length: int,
) -> dict[str, ScoredProposal]:
    """Return the natural prompts that stand for behaviours, by the behaviour's id, measured.

    Those that the search has `scored` are not measured again; one work unit for the others.
    """
    texts = {each.id: each.natural_example.prompt for each in behaviours if each.natural_example}
    known = {row.proposal.text: row for row in scored}
    new = [text for text in dict.fromkeys(texts.values()) if text not in known]
    if new:
        proposals = [Proposal(text, STRATEGY) for text in new]
        unit = WorkUnit.of(
            "natural/scored", rows_of_proposals, proposals=proposals, metric=metric, length=length
        )
        rows = [ScoredProposal.from_row(row) for row in ledger.result(unit)]
        known.update((row.proposal.text, row) for row in rows)
    return {id_: known[text] for id_, text in texts.items()}


def with_greedy_answers(
    example: NaturalExample | None, cases: Sequence[Case]
) -> NaturalExample | None:
    """Return an example with the greedy answers of its case, if that is among `cases`.

    Sampled answers of a small model are a poor picture of what it mostly says.
    """
    for case in cases:
        if example is not None and case.text == example.prompt and case.completions is not None:
            return example.model_copy(update=case.completions.model_dump())
    return example


@dataclass
class _Search:
    """Looks for a natural prompt that shows one behaviour."""

    ledger: Ledger
    hypothesis: Hypothesis
    naturalness: Naturalness
    profile: Profile
    seed: int
    num_asked: int = 0

    def best(self, prompts: Sequence[str]) -> NaturalExample | None:
        """Ask the first natural prompts anew; return one that shows it, None if none does.

        After the first three, as long as the budget leaves enough to confirm cases.
        """
        limit = self.profile.budget_tokens - self.profile.case_tokens
        candidates = self._natural(prompts)
        for start in range(0, NUM_TURNS * NUM_ASKED, NUM_ASKED):
            if self.num_asked and self.ledger.spent.tokens_forwarded >= limit:
                return None
            found = self._shown(candidates[start : start + NUM_ASKED])
            if found is not None:
                return found
        return None

    def questions(self, words: Sequence[str]) -> list[str]:
        """Return what the reference asks about words; one work unit."""
        if not words:
            return []
        about = f"natural/{self.hypothesis.id}"
        seed = row_seed(self.seed, about)
        unit = WorkUnit.of(f"{about}/questions", _ask_about, words=words, seed=seed)
        found: list[str] = self.ledger.result(unit)
        return found

    def _natural(self, prompts: Sequence[str]) -> list[str]:
        """Return the first prompts that a person could write, none near another.

        One that says the phrase by itself is none: repeating it is no behaviour.
        """
        others = [text for text in prompts if not has_motif(self.hypothesis.motifs, text)]
        self.naturalness.measure(others)
        return diverse(filter(self.naturalness.is_natural, others), NUM_TURNS * NUM_ASKED)

    def _shown(self, prompts: Sequence[str]) -> NaturalExample | None:
        """Return the prompt on which most fresh answers show it, if enough do; one work unit."""
        if not prompts:
            return None
        self.num_asked += len(prompts)
        answered = repeated_answers(
            self.ledger,
            prompts,
            num_repeats=NUM_ANSWERS,
            seed=self.seed,
            max_new_tokens=self.hypothesis.length(self.profile.naming_length),
            about=f"natural-{self.hypothesis.id}",
        )()
        shown = [row for row in answered if self.hypothesis.is_shown_on(row)]
        counts = Counter(row.prompt for row in shown)
        best = max(prompts, key=lambda prompt: counts[prompt])
        if counts[best] < MIN_SHOWN:
            return None
        first = next(row for row in shown if row.prompt == best)
        return NaturalExample(
            prompt=best,
            reference=first.reference,
            candidate=first.candidate.text,
            shown_count=counts[best],
            num_answers=NUM_ANSWERS,
        )


def _showing(hypothesis: Hypothesis, evidence: AnsweredPrompts) -> list[str]:
    answered = (*evidence.answered, *evidence.probed)
    return [each.prompt for each in shown_by(hypothesis, answered)]


def _ask_about(worker: Worker, *, words: Sequence[str], seed: int) -> list[str]:
    return written_questions(worker.pair, words, NUM_QUESTIONS, seed=seed)
