"""`seeds`: ordinary prompts, scored as they are."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.strategies.protocol import SearchContext
from pytest_divergence.models.pair import ModelPair


class SeedStrategy:
    """Proposes the seeds themselves, from the first on."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """Return a round's seeds: as many as the profile uses, since files may hold thousands."""
        seeds, size = context.seeds, context.profile.num_seeds
        if context.round == 0 and len(seeds) > size:
            context.listener.say(
                f"{len(seeds):,} seeds are scored {size} a round, as far as the budget goes"
            )
        chosen = seeds[context.round * size :][:size]
        return [Proposal(text, "seeds", text) for text in chosen]
