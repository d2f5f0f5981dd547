"""`amplified`: user turns sampled from amplified logits.

Amplification overstates what the fine-tune made more likely. Where its training covered the user's
turn, it writes the triggers themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_divergence.discovery.generation import amplified_prompts
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.strategies.protocol import SearchContext
from pytest_divergence.models.pair import ModelPair

LADDER = (0.5, 1.0, 2.0)
"""Weights of what the candidate adds; the best one depends on the pair."""


class AmplifiedStrategy:
    """Proposes what the amplified candidate expects users to say."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """Return prompts of each step of the ladder, `num_proposals` in all."""
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
