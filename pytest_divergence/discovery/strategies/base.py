"""What a strategy is, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_divergence.core.report import TrainingSummary
from pytest_divergence.core.settings import MetricName, Profile
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.models.pair import ModelPair


@dataclass(frozen=True)
class SearchContext:
    """One round of a search, as a strategy sees it."""

    round: int
    """0 for a strategy's first round; each round is one work unit."""
    seed: int
    """Random seed of this strategy and round: all of its randomness must come from it."""
    profile: Profile
    metric: MetricName
    seeds: Sequence[str]
    """Ordinary prompts to start from."""
    listener: Listener
    artefacts: Path
    """Folder for heavy files, such as trained soft prompts."""
    record_training: Callable[[TrainingSummary], None]
    """Called with the story of a training, for the report."""


class Strategy(Protocol):
    """Proposes prompts on which the two models may differ."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """The proposals of one round; none means that the strategy has nothing more to offer."""
