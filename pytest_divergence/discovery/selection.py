"""Which scored proposals become cases: the largest divergence, natural, no two alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pytest_divergence.discovery.proposals import is_near
from pytest_divergence.discovery.searching import ScoredProposal
from pytest_divergence.discovery.units import WorkUnits
from pytest_divergence.models.fingerprint import text_digest
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.scorer import prompt_nlls

POOL_FACTOR = 4
"""Prompts whose naturalness is measured at a time, for each case that is wanted."""


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
    cases: list[Selected] = []
    apart: list[Selected] = []
    for scored, nll in _with_nlls(units, best, size=POOL_FACTOR * num_cases):
        is_off = is_natural_only and nll > nll_limit
        chosen = apart if is_off else cases
        is_like = any(is_near(scored.proposal.text, one.scored.proposal.text) for one in chosen)
        if is_like or len(chosen) == num_cases:
            continue
        chosen.append(Selected(scored, nll, is_off))
        if len(cases) == num_cases:
            break
    return cases + apart


def _with_nlls(
    units: WorkUnits, best: Sequence[ScoredProposal], *, size: int
) -> Iterator[tuple[ScoredProposal, float]]:
    """Each proposal with its negative log-likelihood, `size` of them in one work unit."""
    for start in range(0, len(best), size):
        pool = best[start : start + size]
        texts = [one.proposal.text for one in pool]
        # Which prompts were found may differ from an earlier session's: a strategy failed there.
        unit = f"select/nll/{text_digest(json.dumps(texts))[:16]}"
        yield from zip(pool, units.do(unit, partial(_nlls, texts)), strict=True)


def _nlls(texts: Sequence[str], pair: ModelPair) -> list[float]:
    return prompt_nlls(pair, pair.reference, texts)
