"""When to use it: you know where to look, or have your own number to judge by.

How to run it: `pytest --model-1 owner/base --model-2 path/to/new --divergence-metric=changed_tokens
--divergence-max-kl=0.1` fails if more than one token in ten would change. The strategy joins every
search; the report lists its finds under its name.

What it leaves to you: what to ask. `Reframed` puts the best prompts found so far into the frames
below; replace the frames with your product's.
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
    """Proposes the best prompts so far in other frames: they may diverge there too."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        """Return each prompt in one frame; all randomness comes from the context's seed."""
        from pytest_divergence import Proposal

        if context.round >= context.profile.num_restarts:
            return []
        starts = (context.best or context.seeds)[: context.profile.num_proposals]
        draw = random.Random(context.seed)
        return [Proposal(draw.choice(FRAMES).format(start), "reframed", start) for start in starts]


class ChangedTokens:
    """The share of positions at which the most likely token changes."""

    unit = "changes/token"

    def measure(self, reference_logits: Tensor, candidate_logits: Tensor) -> Tensor:
        """Return 1 where it changes, else 0: (..., vocab) -> (...)."""
        return (reference_logits.argmax(-1) != candidate_logits.argmax(-1)).float()


@pytest.hookimpl(optionalhook=True)  # so that tests also run where the plugin is switched off
def pytest_divergence_strategies() -> Mapping[str, Strategy]:
    """Add a strategy."""
    return {"reframed": Reframed()}


@pytest.hookimpl(optionalhook=True)
def pytest_divergence_metrics() -> Mapping[str, Metric]:
    """Add a metric, used where it is named."""
    return {"changed_tokens": ChangedTokens()}
