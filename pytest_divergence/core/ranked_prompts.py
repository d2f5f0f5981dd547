"""A user's prompts by how much two models differ on them, as plain values.

Does not know how that is measured or shown.
"""

from __future__ import annotations

from pydantic import Field

from pytest_divergence.core.cases import Case, Count, Number, Record


class RankedPrompt(Record):
    """One prompt with its place among the others and among ordinary prompts."""

    rank: Count
    """Place from 1, the most affected first."""
    id: str
    """Id that a case with this prompt has."""
    input: str
    leap: Number = Field(ge=0)
    """Largest leap at the start of the answer, in nats."""
    first_token_js: Number
    """Divergence at the answer's first token, in nats; it orders prompts of equal leap."""
    opening: str
    """The candidate's answer up to the token that leaps; empty without a leap."""
    controls_above: Count
    """Controls that would stand above it, or beside it."""
    num_controls: Count
    expected_above: Number = Field(ge=0)
    """Number of ordinary prompts, of as many as were ranked, that would stand there: at most so
    many, on average."""
    limit_above: Count
    """Limit of that number: with a probability of 95 %, no more stand there."""

    def case(self) -> Case:
        """Return a suite's row of it, to be measured."""
        return Case(input=self.input, metadata={"leap": round(self.leap, 3)})


class PromptRanking(Record):
    """All prompts of a user, ranked."""

    reference: str
    candidate: str
    prompts: list[RankedPrompt]
    num_controls: Count
    num_repeated: Count
    """Prompts left out because they were given before."""
    num_too_long: Count
    max_tokens: Count
    """Longest prompt that is ranked, in tokens with the chat template's."""
