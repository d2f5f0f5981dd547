"""The formulas: logits in, nats per position out. No model, no device, no batching.

Everything is computed in log space in float32 or better. Definitions: Kullback and Leibler (1951)
and Lin (1991) for the Jensen-Shannon divergence.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def forward_kl(reference_logits: Tensor, candidate_logits: Tensor) -> Tensor:
    """KL(reference || candidate) in nats at each position: (..., vocab) -> (...)."""
    return _kl(_log_probs(reference_logits), _log_probs(candidate_logits))


def reverse_kl(reference_logits: Tensor, candidate_logits: Tensor) -> Tensor:
    """KL(candidate || reference) in nats at each position: (..., vocab) -> (...)."""
    return forward_kl(candidate_logits, reference_logits)


def js(reference_logits: Tensor, candidate_logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats, at most ln 2: (..., vocab) -> (...)."""
    log_p, log_q = _log_probs(reference_logits), _log_probs(candidate_logits)
    log_mixture = torch.logaddexp(log_p, log_q) - math.log(2)
    return (_kl(log_p, log_mixture) + _kl(log_q, log_mixture)) / 2


def symmetric_kl(reference_logits: Tensor, candidate_logits: Tensor) -> Tensor:
    """Mean of both KL directions in nats, half of Jeffreys' divergence: (..., vocab) -> (...)."""
    log_p, log_q = _log_probs(reference_logits), _log_probs(candidate_logits)
    return (_kl(log_p, log_q) + _kl(log_q, log_p)) / 2


def _log_probs(logits: Tensor) -> Tensor:
    upcast = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(upcast, dim=-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    # A token that both models rule out contributes nothing; its -inf - -inf would be NaN.
    ruled_out = torch.isneginf(log_p)
    difference = (log_p - log_q).masked_fill(ruled_out, 0.0)
    return (log_p.exp() * difference).sum(-1)
