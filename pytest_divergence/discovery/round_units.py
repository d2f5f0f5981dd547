"""Work units of a round: a strategy proposes, and proposals get their scores.

What a small round proposes is scored in the round's own unit, which has read it already; the scores
of a large one are units of their own, so that no worker computes them while others wait.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from pytest_divergence.core.report import TrainingSummary
from pytest_divergence.core.settings import MetricName, Profile
from pytest_divergence.discovery.engines.base import Worker
from pytest_divergence.discovery.proposals import Proposal, clean
from pytest_divergence.discovery.scored_proposals import (
    first_scores,
    most_promising,
    rows_of_proposals,
)
from pytest_divergence.discovery.strategies.protocol import RoundTask, SearchContext, Strategy
from pytest_divergence.scoring.cheap_scores import Screened

SCREENED_IN_UNIT = 48
"""Proposals whose answers' beginnings one work unit scores."""
SCORED_IN_UNIT = 32
"""Proposals that one work unit gives the full score."""


def play_round(
    worker: Worker,
    *,
    strategy: Strategy,
    name: str,
    task: RoundTask,
    known: frozenset[str],
    styled: Sequence[str],
    most: tuple[int, int],
) -> dict[str, Any]:
    """Let a strategy propose, and score those proposals whose ids are not `known`, as plain JSON.

    Of more proposals than the first of `most`, none has a score yet; of more promising ones than
    the second, none has the full one. `styled` is as `first_scores` takes it. Changes nothing: the
    run takes over what the round found. Raises what the strategy raises.
    """
    pair, training = worker.pair, list[TrainingSummary]()
    context = SearchContext(
        **vars(task),
        listener=worker.listener,
        artefacts=worker.artefacts,
        record_training=training.append,
    )
    with pair.reuse_prompts():
        offered = strategy.propose(pair, context)
        proposals = [
            proposal
            for proposal in clean(offered, known)
            if not pair.chat.has_control_tokens(proposal.text)
        ]
        trained = [summary.model_dump() for summary in training]
        found: dict[str, Any] = {
            "num_proposals": len(proposals),
            "variant": next((proposal.variant for proposal in offered), ""),
            "ids": [proposal.id for proposal in proposals],
            "unscreened": [asdict(proposal) for proposal in proposals],
            "unscored": [],
            "first_token_kl": [],
            "scored": [],
            "training": trained,
        }
        if len(proposals) > most[0]:
            return found
        worker.listener.progress(f"score {len(proposals)} proposals of {name}", 0, 2)
        screened = first_scores(pair, proposals, metric=task.metric, styled=styled)
        found |= promise(proposals, screened, task.profile, trained)
        if len(found["unscored"]) <= most[1]:
            promising = [Proposal(**row) for row in found["unscored"]]
            length = task.profile.search_length
            found["scored"] = score_proposals(
                worker, proposals=promising, metric=task.metric, length=length
            )
            found["unscored"] = []
    return found


def promise(
    proposals: Sequence[Proposal],
    screened: Sequence[Screened],
    profile: Profile,
    training: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Return what the first scores of a round's proposals tell: which get the full score."""
    chosen = most_promising(proposals, screened, profile.full_score_share)
    first = [each.first_token_kl for each in screened]
    d_hard = sum(first) / len(first) if first else None
    return {
        "unscreened": [],
        "unscored": [asdict(proposals[place]) for place in chosen],
        "first_token_kl": [first[place] for place in chosen],
        "training": [{**summary, "d_hard": d_hard} for summary in training],
    }


def screen_proposals(
    worker: Worker, *, proposals: Sequence[Proposal], metric: MetricName, styled: Sequence[str]
) -> list[list[float]]:
    """Score the beginnings of answers: the two numbers of a `Screened` for each proposal."""
    with worker.pair.reuse_prompts():
        found = first_scores(worker.pair, proposals, metric=metric, styled=styled)
    return [[each.first_token_kl, each.promise] for each in found]


def score_proposals(
    worker: Worker, *, proposals: Sequence[Proposal], metric: MetricName, length: int
) -> list[dict[str, Any]]:
    """Give proposals the full score, as rows for a journal."""
    with worker.pair.reuse_prompts():
        return rows_of_proposals(worker, proposals=proposals, metric=metric, length=length)


def even_parts(proposals: Sequence[Proposal], size: int) -> list[Sequence[Proposal]]:
    """Return parts of at most so many proposals, as even as they can be."""
    count = math.ceil(len(proposals) / size)
    ends = [round(number * len(proposals) / count) for number in range(count + 1)] if count else []
    return [proposals[start:end] for start, end in pairwise(ends)]
