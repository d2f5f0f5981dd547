"""Proposals with the divergences that a search measures on greedy answers, cheapest first.

Values to find by; nothing is confirmed by them. Does not know who proposes, nor when.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytest_divergence.core.contexts import Context
from pytest_divergence.core.settings import MetricName
from pytest_divergence.discovery.behaviours.answers import Answer, AnsweredPrompt
from pytest_divergence.discovery.engines.base import Worker
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import Screened, screen
from pytest_divergence.scoring.residual import common_tilt
from pytest_divergence.scoring.scorer import PromptScore, score_greedily


@dataclass(frozen=True)
class ScoredProposal:
    """A proposal with the divergences that the search measured, in nats per token."""

    proposal: Proposal
    first_token_kl: float
    search_kl: float
    reference: str
    """The reference's greedy answer, cut at the search's length."""
    candidate: Answer

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> ScoredProposal:
        """Return the proposal that `dataclasses.asdict` and JSON made `row` of."""
        parts = {
            "proposal": Proposal(**row["proposal"]),
            "candidate": Answer.from_row(row["candidate"]),
        }
        return cls(**{**row, **parts})

    @property
    def answered(self) -> AnsweredPrompt:
        """The prompt and its answers as evidence for behaviours."""
        return AnsweredPrompt(self.proposal.text, self.reference, self.candidate, is_control=False)


def first_scores(
    pair: ModelPair, proposals: Sequence[Proposal], *, metric: MetricName, styled: Sequence[str]
) -> list[Screened]:
    """Score the beginning of each proposal's answer.

    All proposals of a round have one aim, or none. Under a new style, `styled` are prompts that
    tell what is common to all; none without.
    """
    aim, tilt = next((proposal.aim for proposal in proposals), ""), None
    # A server tells too few tokens to know what is common to all prompts.
    if styled and not aim and not pair.is_served:
        tilt = common_tilt(pair, styled)
    texts = [proposal.text for proposal in proposals]
    return screen(pair, texts, metric=metric, aim=aim, tilt=tilt)


def most_promising(
    proposals: Sequence[Proposal], screened: Sequence[Screened], share: float
) -> list[int]:
    """Return the places of the most promising share of a round's proposals, the best first.

    Answers to questions about a phrase's words need not begin with it, so half of these are chosen
    by their divergence.
    """
    places = range(len(proposals))
    orders = [sorted(places, key=lambda index: -screened[index].promise)]
    if not all(proposal.is_evidence for proposal in proposals):
        orders.append(sorted(places, key=lambda index: -screened[index].first_token_kl))
    order = list(dict.fromkeys(index for turn in zip(*orders, strict=True) for index in turn))
    return order[: math.ceil(share * len(proposals))]


def scored_greedily(
    pair: ModelPair,
    proposals: Sequence[Proposal],
    *,
    metric: MetricName,
    length: int,
    context: Context | None = None,
) -> list[ScoredProposal]:
    """Measure proposals on greedy answers of at most `length` tokens, under a context if given."""
    texts = [proposal.text for proposal in proposals]
    prompts = texts if context is None else [context.prompt(text) for text in texts]
    scores = score_greedily(pair, prompts, metric=metric, max_new_tokens=length)
    return [
        ScoredProposal(
            proposal=proposal,
            first_token_kl=_at_first_token(score),
            search_kl=score.measurement.value,
            reference=pair.chat.text(score.continuations.reference[0]),
            candidate=Answer.of(pair.chat, score.continuations.candidate[0], score.log_ratios),
        )
        for proposal, score in zip(proposals, scores, strict=True)
    ]


def rows_of_proposals(
    worker: Worker,
    *,
    proposals: Sequence[Proposal],
    metric: MetricName,
    length: int,
    context: Context | None = None,
) -> list[dict[str, Any]]:
    """Return what `scored_greedily` measures as rows for a journal."""
    scored = scored_greedily(worker.pair, proposals, metric=metric, length=length, context=context)
    return [asdict(row) for row in scored]


def _at_first_token(score: PromptScore) -> float:
    """Return the symmetric divergence at an answer's first token, nats."""
    tokens = score.on_candidate[0]
    return float(tokens.forward[0] + tokens.reverse[0]) / 2
