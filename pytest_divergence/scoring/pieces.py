"""What is measured at each position, a piece of the positions at a time.

A piece's logits are made, measured and forgotten, so that the peak of memory does not grow with
vocabulary times positions. Where a gradient is wanted they are made a second time in the backward
pass (Chen et al. 2016, arXiv:1604.06174; for the output head, Hsu et al. 2024, arXiv:2410.10989):
with z the logits, h the hidden states, W the head and D the sum of what is measured at positions t,

    dD/dh_t = W^T dD/dz_t,   and of KL(p || q):   dD/dz_q = q - p,   dD/dz_p = p (ln p - ln q - D_t)

so a position's gradient needs no other position's logits. Does not know models or formulas.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pytest_divergence.models.head import Positions

PIECE_BYTES = 32 * 2**20
"""Logits of one model in a piece, in float32; measuring them takes about ten times that."""
Measure = Callable[..., Tensor]
"""From a slice of the positions and each model's logits there (n, V) to values (..., n)."""


def measured(measure: Measure, *models: Positions) -> Tensor:
    """`measure` of the logits of each model at all N positions: (..., N).

    Positions whose logits are in memory anyway are measured at once.
    """
    count = len(models[0])
    if all(one.is_whole for one in models):
        return _piece(measure, models, slice(0, count))
    length = max(1, PIECE_BYTES // (4 * models[0].vocab_size))
    pieces = [slice(start, min(start + length, count)) for start in range(0, count, length)]
    return torch.cat([_recomputed(measure, models, piece) for piece in pieces], dim=-1)


def _recomputed(measure: Measure, models: tuple[Positions, ...], piece: slice) -> Tensor:
    if not torch.is_grad_enabled():
        return _piece(measure, models, piece)
    values: Tensor = checkpoint(
        _piece, measure, models, piece, use_reentrant=False, preserve_rng_state=False
    )
    return values


def _piece(measure: Measure, models: tuple[Positions, ...], piece: slice) -> Tensor:
    return measure(piece, *(one.logits(piece.start, piece.stop) for one in models))
