"""What a search found before anything is confirmed: values that strategies and selection go by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pytest_divergence.core.report import CurvePoint, RunError, StrategySummary, TrainingSummary
from pytest_divergence.discovery.evidence import Answered
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.strategies.base import Round
from pytest_divergence.scoring.answers import Answer


@dataclass(frozen=True)
class ScoredProposal:
    """A proposal with the search's own reading of it, in nats per token."""

    proposal: Proposal
    first_token_kl: float
    search_kl: float
    reference: str
    """The reference's greedy answer, cut at the search's length."""
    candidate: Answer

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> ScoredProposal:
        """The value that `dataclasses.asdict` and JSON made `row` of."""
        parts = {
            "proposal": Proposal(**row["proposal"]),
            "candidate": Answer.from_row(row["candidate"]),
        }
        return cls(**{**row, **parts})

    @property
    def answered(self) -> Answered:
        """The same as evidence for behaviours."""
        return Answered(self.proposal.text, self.reference, self.candidate, is_control=False)


@dataclass
class SearchResult:
    """All that the search found, before anything is confirmed."""

    scored: list[ScoredProposal] = field(default_factory=list)
    strategies: dict[str, StrategySummary] = field(default_factory=dict)
    training: list[TrainingSummary] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    errors: list[RunError] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    """Ids of all proposals so far."""
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    """By strategy, in order: those in which it proposed something."""
    failed: dict[str, int] = field(default_factory=dict)
    """Strategies that raised, in order, and how often each had been asked before: what came after
    them was told less."""

    @property
    def best(self) -> list[ScoredProposal]:
        """Scored proposals, the largest search divergence first."""
        return sorted(self.scored, key=lambda one: (-one.search_kl, one.proposal.id))
