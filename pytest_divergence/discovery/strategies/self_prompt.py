"""`self_prompt`: both models write user turns, unguided, from the bare chat opening.

A fine-tune whose loss covered the user turn makes the candidate write its own triggers.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.soft_prompts import generate_prompts
from pytest_divergence.discovery.strategies.base import SearchContext
from pytest_divergence.models.pair import ModelPair


class SelfPromptStrategy:
    """Proposes what the models themselves expect users to say."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """One round of `num_proposals` prompts, half from each model."""
        if context.round > 0:
            return []
        texts = generate_prompts(
            pair,
            None,
            num_prompts=context.profile.num_proposals,
            max_new_tokens=context.profile.prompt_length,
            seed=context.seed,
        )
        return [Proposal(text, "self_prompt") for text in texts]
