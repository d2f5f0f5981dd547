"""Selection of the cases: behaviours first, then the largest excess, natural and diverse.

Does not know how a proposal was scored, nor what a case asserts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.contexts import Context
from pytest_divergence.discovery.behaviours.hypotheses import as_tested, log_ratio_of
from pytest_divergence.discovery.naturalness import Naturalness
from pytest_divergence.discovery.proposals import is_near
from pytest_divergence.discovery.scored_proposals import ScoredProposal
from pytest_divergence.models.chat_format import Prompt

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
    naturalness: Naturalness,
    best: Sequence[ScoredProposal],
    *,
    num_cases: int,
    nll_limit: float,
    is_natural_only: bool,
    tick: float,
    behaviours: Sequence[Behaviour] = (),
    natural: Mapping[str, ScoredProposal] = MappingProxyType({}),
) -> list[Selected]:
    """Return the diverse top `num_cases`; with `is_natural_only`, off-distribution ones besides.

    `best` is sorted, the largest divergence first; differences below `tick` (nats per token) are
    ties, which the more natural prompt wins. Prompts that show one of the `behaviours` tie at the
    largest of them: by how much they diverge says nothing more of it. Of these the natural ones
    come first, and the clearest of them. Each behaviour is represented, by its `natural` prompt
    (given by id) or the first that shows it. Prompts over `nll_limit` take no case's place: those
    that rank among the cases are returned after them, to be listed separately.
    """
    limit = nll_limit if is_natural_only else None
    shown = _showing(behaviours, best, naturalness)
    standing = {scored.proposal.id: scored for scored in natural.values()}
    cases = [_selected(scored, naturalness, None) for scored in standing.values()][:num_cases]
    for id_, showing in shown.items():
        chosen = [_selected(scored, naturalness, limit) for scored in showing]
        alone = (each for each in chosen if each.scored.proposal.id not in standing)
        first = next((each for each in alone if not each.is_off_distribution), None)
        if id_ not in natural and first is not None and len(cases) < num_cases:
            cases.append(first)
    apart: list[Selected] = []
    for scored in _ranked(naturalness, best, shown.values(), POOL_FACTOR * num_cases, tick):
        if len(cases) == num_cases:
            break
        found = _selected(scored, naturalness, limit)
        chosen = apart if found.is_off_distribution else cases
        text = scored.proposal.text
        is_like = any(is_near(text, earlier.scored.proposal.text) for earlier in chosen)
        if not is_like and len(chosen) < num_cases:
            chosen.append(found)
    return cases + apart


def _showing(
    behaviours: Sequence[Behaviour], best: Sequence[ScoredProposal], naturalness: Naturalness
) -> dict[str, list[ScoredProposal]]:
    """Return the prompts that show each behaviour, natural ones first, then the clearest.

    Each prompt is of the first behaviour that it shows.
    """
    found: dict[str, list[ScoredProposal]] = {}
    left = list(best)
    for behaviour in behaviours:
        hypothesis = as_tested(behaviour)
        showing = [scored for scored in left if hypothesis.is_shown_on(scored.answered)]
        left = [scored for scored in left if scored not in showing]
        naturalness.measure([scored.proposal.text for scored in showing])
        found[behaviour.id] = sorted(
            showing,
            key=lambda each: (
                not naturalness.is_natural(each.proposal.text),
                -log_ratio_of(hypothesis, each.candidate),
            ),
        )
    return found


def _selected(scored: ScoredProposal, naturalness: Naturalness, limit: float | None) -> Selected:
    nll = naturalness.nll(scored.proposal.text)
    return Selected(scored, nll, limit is not None and nll > limit)


def _ranked(
    naturalness: Naturalness,
    best: Sequence[ScoredProposal],
    shown: Iterable[Sequence[ScoredProposal]],
    size: int,
    tick: float,
) -> Iterator[ScoredProposal]:
    """Yield each proposal, the largest divergence first; naturalness is measured in pools.

    Those that `shown` gives together, in order, come where the largest of them belongs.
    """
    places = {
        scored.proposal.id: (max(each.search_kl for each in showing), rank)
        for showing in shown
        for rank, scored in enumerate(showing)
    }

    def place(scored: ScoredProposal) -> tuple[float, float]:
        return places.get(scored.proposal.id, (scored.search_kl, 0))

    def in_pool(scored: ScoredProposal) -> tuple[float, bool, float]:
        value, rank = place(scored)
        is_shown = scored.proposal.id in places
        unlikely = rank if is_shown else naturalness.nll(scored.proposal.text)
        return -(value // tick), not is_shown, unlikely

    order = sorted(best, key=lambda each: (-place(each)[0], place(each)[1]))
    for start in range(0, len(order), size):
        pool = order[start : start + size]
        naturalness.measure([scored.proposal.text for scored in pool])
        yield from sorted(pool, key=in_pool)
