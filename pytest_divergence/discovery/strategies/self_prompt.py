"""`self_prompt`: both models write user turns, unguided, from the bare chat opening.

A fine-tune whose loss covered the user turn makes the candidate write its own triggers; these are
more likely under it than under the reference, and come first.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_divergence.discovery.generation import generate_prompts, without_system_turn
from pytest_divergence.discovery.proposals import Proposal, clean
from pytest_divergence.discovery.strategies.protocol import SearchContext
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import prompt_nlls

SURPLUS = 1.25
"""Prompts written for each that is proposed."""


class SelfPromptStrategy:
    """Proposes what the models themselves expect users to say."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """Return a round's best, half from each model, with the default system turn and none.

        Ranked by (1/|x|) (ln p_candidate(x) - ln p_reference(x)).
        """
        if context.round >= context.profile.num_restarts:
            return []
        wanted = context.profile.num_proposals
        openings = [pair, without_system_turn(pair)]
        texts: list[str] = []
        for index, opened in enumerate(openings):
            texts += generate_prompts(
                opened,
                None,
                num_prompts=len(range(index, round(SURPLUS * wanted), len(openings))),
                max_new_tokens=context.profile.prompt_length,
                seed=context.seed + index,
            )
        proposals = clean(Proposal(text, "self_prompt") for text in texts)
        written = [proposal.text for proposal in proposals]
        reference, candidate = (prompt_nlls(pair, side, written) for side in pair.sides)
        order = sorted(range(len(written)), key=lambda i: (candidate[i] - reference[i], i))
        return [proposals[index] for index in order[:wanted]]
