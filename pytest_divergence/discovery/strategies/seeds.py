"""`seeds`: ordinary prompts, scored as they are."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.strategies.protocol import SearchContext
from pytest_divergence.models.pair import ModelPair


class SeedStrategy:
    """Proposes the seeds themselves, once."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """Return all seeds in the first round, nothing after."""
        if context.round > 0:
            return []
        return [Proposal(text, "seeds", text) for text in context.seeds]
