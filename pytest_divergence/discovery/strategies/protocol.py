"""What a strategy is, what it is told, and which of several has paid most.

Knows neither a strategy nor how a search asks it.
"""

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

PRIOR_TOKENS = 2_500
"""Forwarded tokens for which what was not tried yet is taken to find one prompt."""


@dataclass(frozen=True)
class TargetPhrase:
    """A phrase that the candidate may say from an answer's start: what a search can aim at."""

    motif: str
    """Normalised: the same as long as the phrase is."""
    text: str
    """As the candidate writes it."""
    is_confirmed: bool
    prompts: Sequence[str] = ()
    """What was found so far that makes the candidate say it, and not the reference."""


@dataclass(frozen=True)
class Round:
    """What one round of a strategy came to."""

    variant: str
    """Which way of working the strategy chose; empty for a strategy that has but one."""
    num_hits: int
    """Scored proposals that were over the bound, or showed a behaviour."""
    tokens_forwarded: int


@dataclass(frozen=True, kw_only=True)
class RoundTask:
    """One round of a search as data: it can be pickled and played in another process."""

    round: int
    """0 for a strategy's first round; each round is one work unit."""
    seed: int
    """Random seed of this strategy and round: all of its randomness must come from it."""
    profile: Profile
    metric: MetricName
    seeds: Sequence[str]
    """Ordinary prompts to start from."""
    best: Sequence[str] = ()
    """Prompts that any strategy found so far, those that show a behaviour first, then by KL."""
    targets: Sequence[TargetPhrase] = ()
    """Phrases to aim at, confirmed ones first."""
    has_new_style: bool = False
    """Whether most answers have changed, so that a divergence mostly measures that."""
    rounds: Sequence[Round] = ()
    """This strategy's earlier rounds."""


@dataclass(frozen=True, kw_only=True)
class SearchContext(RoundTask):
    """One round of a search, as a strategy sees it: the task, and where it is carried out."""

    listener: Listener
    artefacts: Path
    """Folder for heavy files, such as trained soft prompts."""
    record_training: Callable[[TrainingSummary], None]
    """Takes the summary of a training for the report; the search adds `d_hard`."""


class Strategy(Protocol):
    """Proposes prompts on which the two models may differ."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """The proposals of one round. None: it has no more to offer, unless `targets` change."""


def most_paying(names: Sequence[str], rounds: Sequence[tuple[str, Round]]) -> str:
    """The name with the most hits per forwarded token in its rounds; the first of equals.

    Each is given one hit for `PRIOR_TOKENS` besides, so that what was not tried yet has its turn,
    and what has found nothing yet is not written off after one cheap round.
    """

    def pay(name: str) -> float:
        own = [one for other, one in rounds if other == name]
        hits = 1 + sum(one.num_hits for one in own)
        return hits / (PRIOR_TOKENS + sum(one.tokens_forwarded for one in own))

    return max(names, key=pay)
