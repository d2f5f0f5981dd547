"""How natural a prompt is: the negative log-likelihood of its own words under a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pytest_divergence.models.batching import map_batches
from pytest_divergence.models.chat import Prompt
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import ModelSide
from pytest_divergence.scoring.tokens import SCORING_BATCH, token_log_probs


def prompt_nlls(pair: ModelPair, side: ModelSide, prompts: Sequence[Prompt]) -> list[float]:
    """Mean negative log-likelihood of each prompt's own tokens under one model, nats per token.

    For a single user turn these are the user's tokens, without what the template writes around
    them; perplexity is the exponential of it.
    """
    suffix = len(pair.chat.user_suffix) if pair.chat.template is not None else 0
    return map_batches(
        pair.prompt_rows(prompts),
        lambda rows: _user_nlls(side, rows, suffix),
        length=lambda row: len(row[1]),
        max_rows=SCORING_BATCH,
    )


@torch.no_grad()
def _user_nlls(
    side: ModelSide, rows: Sequence[tuple[tuple[int, ...], Tensor]], num_suffix: int
) -> list[float]:
    """Mean over the user's tokens: all but each row's first, and the template's last."""
    prefixes = {prefix for prefix, _ in rows}
    shared = next(iter(prefixes)) if len(prefixes) == 1 else ()
    bodies = [torch.tensor([*prefix[len(shared) :], *body.tolist()]) for prefix, body in rows]
    longest = max(len(body) for _, body in rows)
    positions = side.positions(bodies, prefix=shared, num_positions=longest)
    targets = [ids[1 : 1 + max(1, len(ids) - 1 - num_suffix)] for _, ids in rows]
    places = [
        (row + 1) * longest - len(ids) + torch.arange(len(wanted))
        for row, ((_, ids), wanted) in enumerate(zip(rows, targets, strict=True))
    ]
    logprobs = token_log_probs(side, positions.at(torch.cat(places)), torch.cat(targets))
    # A base model's empty prompt has no token: nothing was written.
    return [
        -float(one.double().mean()) if len(one) else 0.0
        for one in torch.split(logprobs, [len(wanted) for wanted in targets])
    ]
