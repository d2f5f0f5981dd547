"""`amplified`: user turns sampled from amplified logits.

What the fine-tune made more likely is overstated, in the user's turn too: where its training
covered that, the triggers themselves are written.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_divergence.discovery.generation import amplified_prompts
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.strategies.protocol import SearchContext
from pytest_divergence.models.pair import ModelPair

LADDER = (0.5, 1.0, 2.0)
"""How much the candidate's own part counts; which step pays depends on the pair."""


class AmplifiedStrategy:
    """Proposes what the candidate, overstated, expects users to say."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """Prompts of each step of the ladder, `num_proposals` in all."""
        if context.round >= context.profile.num_restarts or pair.is_same_model:
            return []
        proposals: list[Proposal] = []
        for index, alpha in enumerate(LADDER):
            texts = amplified_prompts(
                pair,
                alpha=alpha,
                num_prompts=len(range(index, context.profile.num_proposals, len(LADDER))),
                max_new_tokens=context.profile.prompt_length,
                seed=context.seed + index,
            )
            proposals += [Proposal(text, "amplified", f"alpha {alpha:g}") for text in texts]
        return proposals
