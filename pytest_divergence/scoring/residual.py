"""Residual divergence: how an answer begins, less what all answers have changed alike.

Where every answer begins in a new way, a divergence measures that beginning on any prompt. The
residual compares the candidate q with the reference p tilted by what ordinary prompts x share,

    p~(v | c) ~ p(v | c) exp(mean over x of ln q(v | x) - ln p(v | x)),

and is 0 on a prompt that does as all of them do. For finding alone: limits and cases are of the
divergence itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.divergences import log_probs
from pytest_divergence.scoring.metrics import DIVERGENCES
from pytest_divergence.scoring.teacher_forcing import ScoringRow, at_first_tokens

NUM_PROMPTS = 8
"""Ordinary prompts that a tilt is the mean of: with 8 as good as with 40 where all answers begin
with one phrase (`benchmarks/README.md`)."""


def common_tilt(pair: ModelPair, prompts: Sequence[Prompt]) -> Tensor:
    """Return the mean of ln q - ln p at the prompts' first answer tokens, in nats: (V,).

    A token that a model rules out on one of them (-inf) is not tilted.
    """

    def shifts(reference: Tensor, candidate: Tensor) -> list[Tensor]:
        return list(log_probs(candidate) - log_probs(reference))

    return (
        torch.stack(at_first_tokens(pair, _rows(pair, prompts), shifts))
        .mean(0)
        .nan_to_num(0.0, 0.0, 0.0)
    )


def residual_divergences(
    pair: ModelPair, prompts: Sequence[Prompt], tilt: Tensor, *, metric: str
) -> list[float]:
    """Return the residual divergence at each prompt's first answer token, in nats."""

    def divergences(reference: Tensor, candidate: Tensor) -> list[float]:
        values: list[float] = DIVERGENCES[metric](reference + tilt, candidate).tolist()
        return values

    return at_first_tokens(pair, _rows(pair, prompts), divergences)


def _rows(pair: ModelPair, prompts: Sequence[Prompt]) -> list[ScoringRow]:
    return [ScoringRow(*row, (0,)) for row in pair.prompt_rows(prompts)]
