"""Conditions: what the prompts share on which the candidate shows a confirmed behaviour.

The answers of a search suggest up to three properties of prompts; where they suggest nothing
clearly, the candidate is first asked about words that go with the behaviour. Each property is tried
on fresh prompts that have it, and on as many like ones that do not, which both models answer once
(`pytest_divergence.discovery.behaviours.fresh_prompts`). Holm's correction covers all properties
that are suggested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice, zip_longest
from random import Random

import numpy as np
from scipy.stats import fisher_exact

from pytest_divergence.core.behaviours import When
from pytest_divergence.core.settings import Profile
from pytest_divergence.discovery.behaviours.answers import (
    AnsweredPrompt,
    AnsweredPrompts,
    repeated_answers,
)
from pytest_divergence.discovery.behaviours.causes import greedy_answers
from pytest_divergence.discovery.behaviours.fresh_prompts import (
    MIN_PAIRS,
    REMADE,
    FreshPrompts,
    Purse,
    fresh_prompts,
)
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.hypothesis_tests import (
    ALPHA,
    ConfirmedBehaviour,
    holm,
)
from pytest_divergence.discovery.behaviours.ngrams import has_motif
from pytest_divergence.discovery.behaviours.prompt_forms import FORMS
from pytest_divergence.discovery.behaviours.prompt_properties import (
    Contrast,
    PromptProperty,
    dividing_properties,
    language_in,
    parts_clearly,
    words_by_rise,
)
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.prompt_files import every_shipped_prompt
from pytest_divergence.models.decoding import row_seed

MIN_RISE = 0.25
"""Least difference of the shares of prompts that show a behaviour, with a property and without."""
MIN_RATIO = 2.0
"""Least ratio of these shares."""
MIN_HINTS = 3
"""Of the first fresh prompts with a property, those that must show it for more to be asked."""
WORD_FRAMES = ("Tell me about {}.", "How do I get {}?")
WORD_SHARE = 0.25
"""Of a behaviour's tokens, those that may go to questions about words."""
FORM_SHARE = 0.2
"""Of what is left, those that may go to prompts of all forms."""
NUM_OF_A_FORM = 4
NUM_REMADE_OF = 100
"""Shortest shipped prompts that these are made of."""
GENERAL_SHARE = 0.5
"""Share of the controls at which a behaviour needs no condition."""


@dataclass(frozen=True)
class Condition:
    """A property of prompts that held up, and the fresh prompts that it was tried on."""

    when: When
    prompts: FreshPrompts


@dataclass(frozen=True)
class Trial:
    """A property of prompts, and answers to fresh prompts with and without it."""

    tried: PromptProperty
    hypothesis: Hypothesis
    having: tuple[AnsweredPrompt, ...] = ()
    lacking: tuple[AnsweredPrompt, ...] = ()

    @property
    def counts(self) -> tuple[int, int]:
        """Prompts with the property, and without, on which only the candidate shows it."""
        shows = self.hypothesis.is_shown_on
        return sum(map(shows, self.having)), sum(map(shows, self.lacking))

    @property
    def p_value(self) -> float:
        """Fisher's exact p-value, one-sided, before the correction (Fisher 1935)."""
        ours, others = self.counts
        rows = [ours, len(self.having) - ours], [others, len(self.lacking) - others]
        return float(fisher_exact(np.array(rows), alternative="greater").pvalue)

    @property
    def is_rise(self) -> bool:
        """Whether clearly more of the prompts with the property show it."""
        if not self.having:
            return False
        ours, others = self.counts[0] / len(self.having), self.counts[1] / len(self.lacking)
        return bool(ours - others >= MIN_RISE and ours >= MIN_RATIO * others)

    @property
    def is_hint(self) -> bool:
        """Whether the first answers are worth asking for the rest."""
        return self.counts[0] >= MIN_HINTS and self.is_rise

    def condition(self, p_value: float) -> Condition:
        """Return the property as one that held up, with its corrected p-value."""
        (ours, others), both = self.counts, (*self.having, *self.lacking)
        shows = self.hypothesis.shows
        when = When(
            property=self.tried.text,
            with_count=ours,
            num_with=len(self.having),
            without_count=others,
            num_without=len(self.lacking),
            reference_count=sum(
                shows(each.prompt, each.reference, each.candidate.text) for each in both
            ),
            p_value=p_value,
        )
        having, lacking = (
            tuple(each.prompt for each in answered) for answered in (self.having, self.lacking)
        )
        return Condition(when, FreshPrompts(having, lacking))


def find_conditions(
    ledger: Ledger,
    confirmed: Sequence[ConfirmedBehaviour],
    evidence: AnsweredPrompts,
    profile: Profile,
    listener: Listener,
    *,
    seeds: Sequence[str],
    seed: int,
) -> dict[str, Condition]:
    """Return the conditions that hold up, by the id of the behaviour; some have none.

    `seeds` are prompts that the search has seen besides the evidence. A behaviour that half of the
    controls show needs no condition. All work takes at most about `profile.condition_tokens`,
    and no more than is left of the budget.
    """
    waiting = [known for known in confirmed if not _is_general(known.hypothesis, evidence)]
    rest = profile.budget_tokens - profile.final_tokens - ledger.spent.tokens_forwarded
    left = min(profile.condition_tokens, rest)
    if left <= 0 or not waiting:
        return {}
    shipped = every_shipped_prompt()
    found: dict[str, Condition] = {}
    for number, known in enumerate(waiting):
        listener.progress("try what prompts share", number, len(waiting))
        spent = ledger.spent.tokens_forwarded
        purse = Purse(ledger, left // (len(waiting) - number), left)
        trials = _Trials(purse, known.hypothesis, evidence, shipped, seeds, profile, seed)
        condition = trials.best(known.behaviour.shortest_cause)
        left -= ledger.spent.tokens_forwarded - spent
        if condition is not None:
            found[known.behaviour.id] = condition
    listener.progress("try what prompts share", len(waiting), len(waiting))
    return found


def contrasts_of(hypothesis: Hypothesis, evidence: AnsweredPrompts) -> list[Contrast]:
    """Return prompts that show a behaviour and that do not: of the controls, and of all others.

    A prompt is neither on which the reference shows it as well, or that says it by itself.
    """
    found = [prompt for prompt in evidence.answered if not prompt.is_control]
    return [
        Contrast(
            showing=[each.prompt for each in group if hypothesis.is_shown_on(each)],
            others=[
                each.prompt
                for each in group
                if not hypothesis.shows(each.prompt, each.candidate.text, each.reference)
                and not has_motif(hypothesis.motifs, each.prompt)
            ],
        )
        for group in (evidence.controls, found)
    ]


def held_up(trials: Sequence[Trial], num_properties: int) -> Condition | None:
    """Return the best property that holds up, None if none does.

    Those of the `num_properties` that were not tried count as tried in vain, since whether they are
    depends on the answers.
    """
    p_values = [trial.p_value for trial in trials] + [1.0] * (num_properties - len(trials))
    ranked = sorted(zip(holm(p_values), p_values, range(len(trials)), strict=False))
    for adjusted, _, index in ranked:
        if adjusted <= ALPHA and trials[index].is_rise:
            return trials[index].condition(adjusted)
    return None


@dataclass(frozen=True)
class _Trials:
    """Tries properties of the prompts of one behaviour."""

    purse: Purse
    hypothesis: Hypothesis
    evidence: AnsweredPrompts
    shipped: Sequence[str]
    seeds: Sequence[str]
    profile: Profile
    seed: int

    def best(self, shortest_cause: str | None) -> Condition | None:
        """Try one after the other until one holds up, or the tokens are used."""
        asked = [*(prompt.prompt for prompt in self.evidence.answered), *self.seeds]
        contrasts = contrasts_of(self.hypothesis, self.evidence)
        if not parts_clearly(contrasts, self.shipped):
            hints = [*self._about_words(shortest_cause), self._in_forms()]
            contrasts += hints
            asked += [text for each in hints for text in (*each.showing, *each.others)]
        properties, trials = dividing_properties(contrasts, self.shipped), list[Trial]()
        for found in properties:
            prompts = fresh_prompts(
                self.purse,
                found,
                contrasts,
                self.shipped,
                asked,
                self.profile.thought_length + self._answer_length,
                about=self.hypothesis.id,
                seed=self.seed,
                may_take_more=not trials,
            )
            trials.append(self._trial(found, prompts))
            if (condition := held_up(trials, len(properties))) is not None:
                return condition
        return None

    @property
    def _answer_length(self) -> int:
        return self.hypothesis.length(self.profile.naming_length)

    def _about_words(self, shortest_cause: str | None) -> list[Contrast]:
        """Ask the candidate about words that go with the behaviour, greedily; one work unit.

        Questions that are framed alike are one contrast, so that only their words differ.
        """
        words = hint_words(self.hypothesis, self.evidence, self.shipped, shortest_cause)
        prompts = [frame.format(word) for word in words for frame in WORD_FRAMES]
        found = Contrast(**self._asked(prompts, WORD_SHARE))
        framings = [{frame.format(word) for word in words} for frame in WORD_FRAMES]
        return [
            Contrast(
                [prompt for prompt in found.showing if prompt in framed],
                [prompt for prompt in found.others if prompt in framed],
            )
            for framed in framings
        ]

    def _in_forms(self) -> Contrast:
        """Ask the candidate prompts of each form, which a search may not have met; one work unit.

        What only sums cause, say, hardly any prompt of a search causes.
        """
        rng = Random(row_seed(self.seed, "forms", self.hypothesis.id))
        english = [text for text in self.shipped if language_in(text) == "English"]
        short = sorted(english, key=lambda text: (len(text), text))[:NUM_REMADE_OF]
        texts = rng.sample(short, len(short))
        of_each = [
            list(islice(filter(FORMS[form], (remake(text, rng) for text in texts)), NUM_OF_A_FORM))
            for form, remake in REMADE.items()
        ]
        prompts = [made for turn in zip_longest(*of_each) for made in turn if made is not None]
        return Contrast(**self._asked(list(dict.fromkeys(prompts)), FORM_SHARE))

    def _asked(self, prompts: Sequence[str], share: float) -> dict[str, list[str]]:
        """Ask the candidate, greedily, as many of the prompts as a share of the tokens pays for."""
        unit = WorkUnit.of(
            f"behaviour/{self.hypothesis.id}/words",
            _ask,
            hypothesis=self.hypothesis,
            prompts=prompts,
            length=self.profile.thought_length + self._answer_length,
            tokens=self.purse.left * share,
        )
        found: dict[str, list[str]] = self.purse.ledger.result(unit)
        return found

    def _trial(self, found: PromptProperty, prompts: FreshPrompts) -> Trial:
        """Ask the fewest prompts; if they hint at a condition, ask the rest too.

        A trial without a hint is one in vain, so nothing is confirmed by stopping early.
        """
        trial = Trial(found, self.hypothesis)
        for part in (slice(MIN_PAIRS), slice(MIN_PAIRS, None)):
            having, lacking = prompts.having[part], prompts.lacking[part]
            if not having:
                break
            answered = repeated_answers(
                self.purse.ledger,
                [*having, *lacking],
                num_repeats=1,
                seed=self.seed,
                max_new_tokens=self._answer_length,
                about=self.hypothesis.id,
            )()
            trial = replace(
                trial,
                having=(*trial.having, *answered[: len(having)]),
                lacking=(*trial.lacking, *answered[len(having) :]),
            )
            if not trial.is_hint:
                return Trial(found, self.hypothesis)
        return trial


def hint_words(
    hypothesis: Hypothesis,
    evidence: AnsweredPrompts,
    shipped: Sequence[str],
    shortest_cause: str | None,
) -> list[str]:
    """Return words that go with a behaviour: of its shortest cause, then of prompts and answers.

    Prompts that say it by themselves tell words too.
    """
    answered = evidence.answered
    shown = [each for each in answered if hypothesis.is_shown_on(each)]
    saying = [each.prompt for each in answered if has_motif(hypothesis.motifs, each.prompt)]
    kinds = [
        ([each.prompt for each in shown], [each.prompt for each in answered]),
        ([each.candidate.text for each in shown], [each.reference for each in answered]),
        (saying, [each.prompt for each in answered]),
    ]
    of_cause = words_by_rise([[shortest_cause or ""]], [[]], shipped)
    ours, others = zip(*kinds, strict=True)
    return list(dict.fromkeys([*of_cause, *words_by_rise(ours, others, shipped)]))


def _ask(
    worker: Worker, *, hypothesis: Hypothesis, prompts: Sequence[str], length: int, tokens: float
) -> dict[str, list[str]]:
    """Return the prompts that show a behaviour, and the others; the first that tokens pay for."""
    pair = worker.pair
    num_sides = 1 if hypothesis.trait is None and pair.chat.open_replies is None else 2
    rows = pair.prompt_rows(prompts)
    costs = accumulate(num_sides * (len(body) + length) for _, body in rows)
    asked = [prompt for prompt, cost in zip(prompts, costs, strict=True) if cost <= tokens]
    showing, others = list[str](), list[str]()
    for prompt, answers in zip(asked, greedy_answers(pair, hypothesis, asked, length), strict=True):
        if not has_motif(hypothesis.motifs, prompt):
            (showing if hypothesis.shows(prompt, *answers) else others).append(prompt)
    return {"showing": showing, "others": others}


def _is_general(hypothesis: Hypothesis, evidence: AnsweredPrompts) -> bool:
    controls = evidence.controls
    return sum(map(hypothesis.is_shown_on, controls)) >= GENERAL_SHARE * max(1, len(controls))
