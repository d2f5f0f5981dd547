"""Residual divergence: how an answer begins, less what all answers have changed alike.

Where every answer begins in a new way, a divergence measures that beginning on any prompt. The
residual compares the candidate q with the reference p tilted by what ordinary prompts x share,

    p~(v | c) ~ p(v | c) exp(mean over x of ln q(v | x) - ln p(v | x)),

and is 0 on a prompt that does as all of them do. For finding alone: limits and cases are of the
divergence itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from pytest_divergence.models.batching import map_batches
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.divergences import log_probs
from pytest_divergence.scoring.metrics import DIVERGENCES
from pytest_divergence.scoring.teacher_forcing import (
    SCORING_BATCH,
    ScoringRow,
    continuation_logits,
)

Value = TypeVar("Value")
NUM_PROMPTS = 8
"""Ordinary prompts that a tilt is the mean of: with 8 as good as with 40 where all answers begin
with one phrase (`benchmarks/README.md`)."""


@torch.no_grad()
def common_tilt(pair: ModelPair, prompts: Sequence[Prompt]) -> Tensor:
    """Return the mean of ln q - ln p at the prompts' first answer tokens, in nats: (V,).

    A token that a model rules out on one of them (-inf) is not tilted.
    """

    def shifts(reference: Tensor, candidate: Tensor) -> list[Tensor]:
        return list(log_probs(candidate) - log_probs(reference))

    return torch.stack(_at_first_tokens(pair, prompts, shifts)).mean(0).nan_to_num(0.0, 0.0, 0.0)


def residual_divergences(
    pair: ModelPair, prompts: Sequence[Prompt], tilt: Tensor, *, metric: str
) -> list[float]:
    """Return the residual divergence at each prompt's first answer token, in nats."""

    def divergences(reference: Tensor, candidate: Tensor) -> list[float]:
        values: list[float] = DIVERGENCES[metric](reference + tilt, candidate).tolist()
        return values

    return _at_first_tokens(pair, prompts, divergences)


@torch.no_grad()
def _at_first_tokens(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    measure: Callable[[Tensor, Tensor], list[Value]],
) -> list[Value]:
    """Apply `measure` to both models' logits (N, V) of a batch's first answer tokens."""

    def compute(batch: list[ScoringRow]) -> list[Value]:
        reference, candidate = (
            torch.cat([logits[:1] for logits in continuation_logits(side, batch)]).float()
            for side in pair.sides
        )
        return measure(reference, candidate.to(reference.device))

    rows = [ScoringRow(*row, (0,)) for row in pair.prompt_rows(prompts)]
    return map_batches(rows, compute, length=lambda row: len(row.body), max_rows=SCORING_BATCH)
