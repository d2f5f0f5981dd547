"""Answers to a suite's prompts, sampled from both models and compared as texts.

For a model of which a server tells nothing else. Knows how many answers are asked for and how the
items of a suite share the error that a replay may make; does not know what an item says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.stats import fisher_exact

from pytest_divergence.core.behaviours import Behaviour, gates
from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.discovery.behaviours.hypotheses import behaviour_shows
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.plugin.session import DivergenceSession
from pytest_divergence.scoring.suite_rows import NOTHING_TO_MEASURE, case_prompt
from pytest_divergence.scoring.text_answers import sampled_texts
from pytest_divergence.scoring.text_tests import TextTest, compare_answers

LEVEL = 0.05
"""Chance that a replay of equal models fails: half is the aggregate's, half all other items'."""
NUM_CASE_ANSWERS = 16
"""Answers of each model to a case's prompt."""
NUM_BEHAVIOUR_ANSWERS = 32
"""Answers of each model to all prompts of a behaviour. With 40 items, one that the candidate shows
in 4 of 10 answers, and the reference in none, is seen in 88 % of replays; with 16 answers in 14 %.
"""
NUM_ROW_ANSWERS = 4
"""Answers of each model to each row's prompt, for all rows together."""
NUM_BEHAVIOUR_PROMPTS = 4

Answers = tuple[list[str], list[str]]
"""Answers of the reference and of the candidate to one prompt."""


@dataclass(frozen=True)
class ComparedCase:
    """A test of the answers to one prompt, with these."""

    test: TextTest
    answers: Answers


@dataclass(frozen=True)
class CountedBehaviour:
    """The number of answers that show a behaviour, of each model, and a test of it."""

    candidate_count: int
    reference_count: int
    num_answers: int
    """Answers of each model."""
    p_value: float
    """P-value of Fisher's exact test that the candidate shows it more often."""
    level: float

    @property
    def is_gone(self) -> bool:
        """Whether the candidate shows it no more often than the reference, as far as is seen."""
        return self.p_value > self.level


class TextReplay:
    """The rows of one suite in one session, answered by both models."""

    def __init__(self, session: DivergenceSession, stored: StoredSuite) -> None:
        """Ask nothing yet."""
        self._session, self._stored = session, stored

    @property
    def _item_level(self) -> float:
        made = self._stored.provenance
        fail_on = self._session.resolved.settings.fail_on
        behaviours = made.behaviours if made is not None else []
        num_behaviours = sum(gates(behaviour, fail_on) for behaviour in behaviours)
        return LEVEL / 2 / max(1, len(self._stored.suite.cases) + num_behaviours)

    def case(self, pair: ModelPair, row: Case) -> ComparedCase:
        """Compare the answers to a case's prompt. Raises `MeasurementError`."""
        # Servers take 32 bits of a seed; two prompts with one seed would get answers that go along.
        seed = row_seed(self._seed, row.id) % 2**31
        (answers,) = self._sampled(pair, [case_prompt(row)], NUM_CASE_ANSWERS, seed)
        test = compare_answers([answers], level=self._item_level, seed=self._seed)
        return ComparedCase(test, answers)

    def rows(self, pair: ModelPair) -> TextTest:
        """Compare the answers to all rows' prompts together. Raises `MeasurementError`."""
        prompts = [case_prompt(row) for row in self._stored.suite.rows]
        found = self._sampled(pair, prompts, NUM_ROW_ANSWERS, self._seed)
        return compare_answers(found, level=LEVEL / 2, seed=self._seed)

    def behaviour(self, pair: ModelPair, behaviour: Behaviour) -> CountedBehaviour:
        """Count a behaviour in answers to the prompts that showed it. Raises `MeasurementError`."""
        if not (prompts := _prompts_of(behaviour)):
            raise MeasurementError(NOTHING_TO_MEASURE)
        per_prompt = max(2, NUM_BEHAVIOUR_ANSWERS // len(prompts))
        found = self._sampled(pair, prompts, per_prompt, self._seed)
        counts = [0, 0]
        for prompt, (reference, candidate) in zip(prompts, found, strict=True):
            text = prompt if isinstance(prompt, str) else prompt[-1].content
            shows = partial(behaviour_shows, behaviour, text)
            both = list(zip(reference, candidate, strict=True))
            counts[0] += sum(shows(theirs, ours) for theirs, ours in both)
            counts[1] += sum(shows(ours, theirs) for theirs, ours in both)
        number = per_prompt * len(prompts)
        table = np.array([[counts[1], number - counts[1]], [counts[0], number - counts[0]]])
        p_value = float(fisher_exact(table, alternative="greater").pvalue)
        return CountedBehaviour(counts[1], counts[0], number, p_value, self._item_level)

    @property
    def _seed(self) -> int:
        return self._session.resolved.settings.seed

    def _sampled(
        self, pair: ModelPair, prompts: Sequence[Prompt], count: int, seed: int
    ) -> list[Answers]:
        profile = self._session.resolved.settings.resolved_profile(pair.device.type)
        return sampled_texts(
            pair,
            prompts,
            num_answers=count,
            max_new_tokens=profile.continuation_length,
            seed=seed,
        )


def _prompts_of(behaviour: Behaviour) -> list[Prompt]:
    """Return distinct prompts that showed a behaviour, those of its telling answers first."""
    examples = [behaviour.natural_example, *behaviour.examples]
    if behaviour.context is not None:  # the prompts of examples are then the user's texts alone
        examples = []
    prompts: list[Prompt] = [told.prompt for told in reversed(behaviour.telling)]
    prompts += [example.prompt for example in examples if example is not None]
    return list(dict.fromkeys(prompts))[:NUM_BEHAVIOUR_PROMPTS]
