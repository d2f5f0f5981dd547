"""Items with known answers, and what two models make of them: plain values and their verdicts.

Does not know how an item is measured, nor how a number is tested.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, computed_field, model_validator

from pytest_divergence.core.behaviours import Rate
from pytest_divergence.core.cases import Count, Number, Record

DamageVerdict = Literal["worse", "not worse", "undecided"]

LEVEL = 0.025
"""Level of each of the two tests, answers and margins: 5 % for both together (Bonferroni)."""
MIN_KNOWN = 32
"""A reference that knows fewer answers has too little to lose for a verdict of `not worse`."""


class KnownAnswer(Record):
    """A prompt with its right answer."""

    input: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    opening: str = ""
    """Beginning of the answer, given to both models: `The capital of France is`."""
    choices: tuple[str, ...] = ()
    """Answers to choose from, the right one among them; none: the likeliest text is the answer."""

    @model_validator(mode="after")
    def _choices_hold_the_answer(self) -> KnownAnswer:
        if self.choices and (self.answer not in self.choices or len(set(self.choices)) < 2):
            raise ValueError("`choices` must hold `answer`, and another one")
        return self


class MeasuredAnswer(Record):
    """An item with both models' margins, nats: above 0 the right answer is the model's own."""

    input: str
    answer: str
    reference_margin: Number
    candidate_margin: Number

    @property
    def is_lost(self) -> bool:
        """Whether the reference answers right, and the candidate does not."""
        return self.reference_margin > 0 >= self.candidate_margin

    @property
    def is_won(self) -> bool:
        """Whether the candidate answers right, and the reference does not."""
        return self.candidate_margin > 0 >= self.reference_margin


class Change(Record):
    """A mean over items, candidate less reference, with its one-sided test."""

    mean: Number
    low: Number | None
    high: Number | None
    """Two-sided 90 % interval, so that each end is a one-sided 95 % limit; null for one item."""
    p_value: Rate
    """One-sided, of the hypothesis that nothing has become worse."""

    @property
    def is_worse(self) -> bool:
        """Whether the loss is shown."""
        return self.p_value <= LEVEL


class DamageReport(Record):
    """Right answers that the candidate has lost and won, with the tests of both."""

    reference: str
    candidate: str
    items_sha256: str
    """Digest of the file of items."""
    num_items: Count
    num_reference_right: Count
    num_candidate_right: Count
    num_lost: Count
    num_won: Count
    accuracy: Change
    """Change of the share of right answers; exact McNemar test."""
    margin: Change
    """Change of the mean margin, nats; t test."""
    tolerance: Rate
    detectable_loss: Number | None
    """Loss of accuracy that the test of answers finds in 80 % of cases, given how many answers have
    changed; null if there is none."""
    items: list[MeasuredAnswer]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> DamageVerdict:
        """Verdict: worse if answers or margins are shown to be, not worse within the tolerance."""
        if self.accuracy.is_worse or self.margin.is_worse:
            return "worse"
        is_within = self.accuracy.low is not None and self.accuracy.low > -self.tolerance
        return "not worse" if is_within and self.knows_enough else "undecided"

    @property
    def knows_enough(self) -> bool:
        """Whether the reference has enough right answers to lose."""
        return self.num_reference_right >= MIN_KNOWN
