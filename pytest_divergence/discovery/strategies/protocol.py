"""Protocol of a strategy, the data that it gets, and the choice of the most successful one.

Knows neither a strategy nor how a search asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from pytest_divergence.core.report import TrainingSummary
from pytest_divergence.core.settings import MetricName, Profile
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.models.pair import ModelPair

PRIOR_TOKENS = 2_500
"""Forwarded tokens in which an untried strategy is assumed to find one prompt."""


@dataclass(frozen=True)
class TargetPhrase:
    """A phrase to aim at: the candidate may begin an answer with it."""

    motif: str
    """Normalised, so that it identifies the phrase."""
    text: str
    """The phrase as the candidate writes it."""
    is_supported: bool
    prompts: Sequence[str] = ()
    """Prompts found so far that make the candidate say it, and not the reference."""
    wordings: Sequence[str] = ()
    """Other words, normalised, that the answers with the phrase hold."""
    beginnings: Sequence[str] = ()
    """Words before the phrase in its sentence, in answers."""


@dataclass(frozen=True)
class Round:
    """Result of one round of a strategy."""

    variant: str
    """Name of the method that the strategy chose; empty if it has only one."""
    num_hits: int
    """Scored proposals that were over the bound, or showed a behaviour."""
    tokens_forwarded: int
    part: float = 1.0
    """The part of a whole round that it was, above 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class RoundTask:
    """One round of a search as data: it can be pickled and run in another process."""

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
    """Whether most answers have changed in style, which a divergence then mostly measures."""
    rounds: Sequence[Round] = ()
    """This strategy's earlier rounds; those still under way count as without a hit."""


@dataclass(frozen=True, kw_only=True)
class SearchContext(RoundTask):
    """One round of a search as a strategy sees it: its task, listener and folder."""

    listener: Listener
    artefacts: Path
    """Folder for heavy files, such as trained soft prompts.

    On Ray only regular files directly in it, of at most 64 MiB each, come back; a subfolder or a
    larger file fails the round.
    """
    record_training: Callable[[TrainingSummary], None]
    """Takes the summary of a training for the report; the search adds `d_hard`."""


class Strategy(Protocol):
    """Proposes prompts on which the two models may differ."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """Return the proposals of one round; [] when there are no more, until `targets` change."""


@runtime_checkable
class StrategyWithVariants(Strategy, Protocol):
    """A strategy whose rounds differ in method, known before they are computed.

    With several rounds under way, the later ones see in `rounds` which variants are being tried.
    """

    def next_variant(self, task: RoundTask) -> str:
        """Return the variant that `propose` chooses for this task."""


def most_paying(names: Sequence[str], rounds: Sequence[tuple[str, Round]]) -> str:
    """Return the name with the most hits per forwarded token in its rounds; the first of equals.

    Each gets one extra hit for `PRIOR_TOKENS`, so that an untried strategy has its turn, and one
    that has found nothing is not dropped after a cheap round.
    """

    def pay(name: str) -> float:
        past = [done for strategy, done in rounds if strategy == name]
        hits = 1 + sum(done.num_hits for done in past)
        return hits / (PRIOR_TOKENS + sum(done.tokens_forwarded for done in past))

    return max(names, key=pay)
