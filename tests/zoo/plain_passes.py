"""What a pair must measure: each row alone through the transformers model itself.

No batch, no padding, no cache, no shared prefix: only the divergences' formulas are the package's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pytest_divergence.core.cases import Measurement
from pytest_divergence.scoring.divergences import forward_kl, js, reverse_kl

PADDING = 7
"""Tokens behind a row that no causal model sees, for a second opinion on its rounding."""
MAX_TIE = 1e-4
"""Of logits: tokens this near to the most likely one are as likely."""


@dataclass(frozen=True)
class Values:
    """Divergences of one prompt, in nats per token."""

    forward: float
    reverse: float
    js: float

    def deviation(self, other: Values | Measurement) -> float:
        """Return the largest difference from the same three values of another reading."""
        ours, theirs = ((values.forward, values.reverse, values.js) for values in (self, other))
        return max(abs(left - right) for left, right in zip(ours, theirs, strict=True))


@torch.no_grad()
def plain_logits(
    model: PreTrainedModel, prompt: Sequence[int], continuation: Sequence[int], *, padding: int = 0
) -> Tensor:
    """Return the logits that predict each token of a continuation, in float32: (T, V)."""
    row = [*prompt, *continuation[:-1]]
    run: Any = model
    logits: Tensor = run(input_ids=torch.tensor([row + row[:1] * padding]), use_cache=False).logits
    return logits[0, len(prompt) - 1 : len(row)].float()


def plain_values(
    models: tuple[PreTrainedModel, PreTrainedModel],
    prompt: Sequence[int],
    continuations: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]],
    *,
    padding: int = 0,
) -> Values:
    """Return the divergences over the continuations that each model wrote."""
    ours, theirs = (
        [[plain_logits(model, prompt, ids, padding=padding) for model in models] for ids in side]
        for side in continuations
    )
    both = [torch.cat([js(*pair) for pair in side]).mean() for side in (ours, theirs)]
    return Values(
        forward=float(torch.cat([forward_kl(*pair) for pair in ours]).mean()),
        reverse=float(torch.cat([reverse_kl(*pair) for pair in theirs]).mean()),
        js=float(sum(both) / 2),
    )


def is_greedy(model: PreTrainedModel, prompt: Sequence[int], continuation: Sequence[int]) -> bool:
    """Return whether each token is the most likely one after what stands before it.

    By induction the continuation is then the model's own greedy text.
    """
    logits = plain_logits(model, prompt, continuation)
    chosen = logits.gather(1, torch.tensor(continuation)[:, None])[:, 0]
    return bool((logits.max(1).values - chosen <= MAX_TIE).all())


def is_causal(model: PreTrainedModel) -> bool:
    """Return whether a later token leaves the logits of earlier ones as they are."""
    first, second = (plain_logits(model, [5], [6, 7, last, 5])[:2] for last in (8, 9))
    return bool(torch.allclose(first, second, atol=MAX_TIE))
