"""Which scored proposals become cases: the largest divergence, natural, no two alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_divergence.discovery.proposals import is_near
from pytest_divergence.discovery.searching import ScoredProposal
from pytest_divergence.discovery.units import WorkUnits
from pytest_divergence.scoring.scorer import prompt_nlls

POOL_FACTOR = 4
"""Prompts whose naturalness is measured, for each case that is wanted."""


@dataclass(frozen=True)
class Selected:
    """One prompt that will be confirmed."""

    scored: ScoredProposal
    prompt_nll: float
    """Negative log-likelihood under the reference, nats per token."""
    is_off_distribution: bool


def select(
    units: WorkUnits,
    best: Sequence[ScoredProposal],
    *,
    num_cases: int,
    nll_limit: float,
    is_natural_only: bool,
) -> list[Selected]:
    """The diverse top `num_cases`; with `is_natural_only`, off-distribution ones come on top.

    `best` is sorted, the largest divergence first. Off-distribution prompts take no case's place:
    those that rank among the cases are returned beside them, to be reported apart.
    """
    pool = list(best[: POOL_FACTOR * num_cases])
    texts = [one.proposal.text for one in pool]
    nlls = units.do("select/nll", lambda pair: prompt_nlls(pair, pair.reference, texts))
    cases: list[Selected] = []
    apart: list[Selected] = []
    for scored, nll in zip(pool, nlls, strict=True):
        is_off = is_natural_only and nll > nll_limit
        chosen = apart if is_off else cases
        is_like = any(is_near(scored.proposal.text, one.scored.proposal.text) for one in chosen)
        if is_like or len(chosen) == num_cases:
            continue
        chosen.append(Selected(scored, nll, is_off))
        if len(cases) == num_cases:
            break
    return cases + apart
