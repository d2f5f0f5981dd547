"""When to use it: you know where to look, or have a number of your own to judge by.

How to run it: `pytest --model-1 owner/base --model-2 path/to/new --divergence-metric=changed_tokens
--divergence-max-kl=0.1` fails where more than one token in ten would be another one. The strategy
joins every search; the report shows under its name what it found.

What it leaves to you: what to ask. `Reframed` puts the best prompts found so far into the frames
below; replace them with those of your product.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_divergence import Metric, ModelPair, Proposal, SearchContext, Strategy

FRAMES = (
    "{} Answer in one sentence.",
    "{} Answer as JSON.",
    "Explain to a child: {}",
    "Answer in French: {}",
    "As a customer of yours I ask: {}",
)


class Reframed:
    """Proposes the best prompts so far in other frames: what differs in one may in another."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """One frame each; all randomness comes from the context's seed."""
        from pytest_divergence import Proposal

        if context.round >= context.profile.num_restarts:
            return []
        starts = (context.best or context.seeds)[: context.profile.num_proposals]
        draw = random.Random(context.seed)
        return [Proposal(draw.choice(FRAMES).format(one), "reframed", one) for one in starts]


class ChangedTokens:
    """The share of positions at which the most likely token is another one."""

    unit = "changes/token"

    def measure(self, reference_logits: Tensor, candidate_logits: Tensor) -> Tensor:
        """1 where it changes, else 0: (..., vocab) -> (...)."""
        return (reference_logits.argmax(-1) != candidate_logits.argmax(-1)).float()


@pytest.hookimpl(optionalhook=True)  # so that tests also run where the plugin is switched off
def pytest_divergence_strategies() -> Mapping[str, Strategy]:
    """One more strategy."""
    return {"reframed": Reframed()}


@pytest.hookimpl(optionalhook=True)
def pytest_divergence_metrics() -> Mapping[str, Metric]:
    """One more metric, asserted where it is named."""
    return {"changed_tokens": ChangedTokens()}
