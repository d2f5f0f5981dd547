"""Selection of the cases: behaviours first, then the largest excess, natural and diverse.

Does not know how a proposal was scored, nor what a case asserts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.contexts import Context
from pytest_divergence.discovery.behaviours.hypotheses import shown_behaviour
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.discovery.proposals import is_near
from pytest_divergence.discovery.rounds import ScoredProposal
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.fingerprints import text_digest
from pytest_divergence.scoring.cheap_scores import prompt_nlls

POOL_FACTOR = 4
"""Prompts whose naturalness is measured at a time, for each case that is wanted."""


@dataclass(frozen=True)
class Selected:
    """One prompt that will be confirmed."""

    scored: ScoredProposal
    prompt_nll: float
    """Negative log-likelihood under the reference, nats per token."""
    is_off_distribution: bool
    context: Context | None = None
    """Context under which it is asked; None for a plain prompt."""

    @property
    def prompt(self) -> Prompt:
        """The prompt as models take it."""
        text = self.scored.proposal.text
        return text if self.context is None else self.context.prompt(text)


def select(
    ledger: Ledger,
    best: Sequence[ScoredProposal],
    *,
    num_cases: int,
    nll_limit: float,
    is_natural_only: bool,
    tick: float,
    behaviours: Sequence[Behaviour] = (),
) -> list[Selected]:
    """Return the diverse top `num_cases`; with `is_natural_only`, off-distribution ones besides.

    `best` is sorted, the largest divergence first; differences below `tick` (nats per token) are
    ties, which the more natural prompt wins. Each of the `behaviours` that a proposal shows has its
    best prompt among the cases. Off-distribution prompts take no case's place, unless they show one
    of these: those that rank among the cases are returned after them, to be listed separately.
    """
    cases: list[Selected] = []
    apart: list[Selected] = []
    represented: set[str] = set()
    shown = {scored.proposal.id: _shown(behaviours, scored) for scored in best}
    showing = [scored for scored in best if shown[scored.proposal.id] is not None]
    for scored, nll in _ranked(ledger, showing, num_cases, tick):
        behaviour = shown[scored.proposal.id]
        if behaviour is not None and behaviour not in represented and len(cases) < num_cases:
            represented.add(behaviour)
            cases.append(Selected(scored, nll, is_off_distribution=False))
    for scored, nll in _ranked(ledger, best, num_cases, tick):
        if len(cases) == num_cases:
            break
        is_off = is_natural_only and nll > nll_limit and shown[scored.proposal.id] is None
        chosen = apart if is_off else cases
        text = scored.proposal.text
        is_like = any(is_near(text, earlier.scored.proposal.text) for earlier in chosen)
        if not is_like and len(chosen) < num_cases:
            chosen.append(Selected(scored, nll, is_off))
    return cases + apart


def _shown(behaviours: Sequence[Behaviour], scored: ScoredProposal) -> str | None:
    prompt, answer = scored.proposal.text, scored.candidate.text
    return shown_behaviour(behaviours, prompt, answer, scored.reference)


def _ranked(
    ledger: Ledger, best: Sequence[ScoredProposal], num_cases: int, tick: float
) -> Iterator[tuple[ScoredProposal, float]]:
    """Yield each proposal with its negative log-likelihood, one work unit a pool."""
    size = POOL_FACTOR * num_cases
    for start in range(0, len(best), size):
        pool = best[start : start + size]
        texts = [scored.proposal.text for scored in pool]
        # A session in which a strategy failed may have found other prompts.
        name = f"select/nll/{text_digest(json.dumps(texts))[:16]}"
        unit = WorkUnit(name, measure_nlls, {"prompts": texts})
        found = zip(pool, ledger.result(unit), strict=True)
        yield from sorted(found, key=lambda pair: (-(pair[0].search_kl // tick), pair[1]))


def measure_nlls(worker: Worker, *, prompts: Sequence[Prompt]) -> list[float]:
    """Return each prompt's negative log-likelihood under the reference, nats per token."""
    pair = worker.pair
    return prompt_nlls(pair, pair.reference, prompts)
