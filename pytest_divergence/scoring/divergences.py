"""The formulas: logits in, nats per position out. No model, no device, no batching.

Everything is computed in log space in float32 or better. Definitions: Kullback and Leibler (1951)
and Lin (1991) for the Jensen-Shannon divergence.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def forward_kl(reference_logits: Tensor, candidate_logits: Tensor) -> Tensor:
    """Return KL(reference || candidate) in nats at each position: (..., vocab) -> (...)."""
    return kl_of_log_probs(log_probs(reference_logits), log_probs(candidate_logits))


def reverse_kl(reference_logits: Tensor, candidate_logits: Tensor) -> Tensor:
    """Return KL(candidate || reference) in nats at each position: (..., vocab) -> (...)."""
    return forward_kl(candidate_logits, reference_logits)


def js(reference_logits: Tensor, candidate_logits: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence in nats, at most ln 2: (..., vocab) -> (...)."""
    return js_of_log_probs(log_probs(reference_logits), log_probs(candidate_logits))


def symmetric_kl(reference_logits: Tensor, candidate_logits: Tensor) -> Tensor:
    """Return the mean of both KL directions in nats, half of Jeffreys': (..., vocab) -> (...)."""
    log_p, log_q = log_probs(reference_logits), log_probs(candidate_logits)
    return (kl_of_log_probs(log_p, log_q) + kl_of_log_probs(log_q, log_p)) / 2


def log_probs(logits: Tensor) -> Tensor:
    """Return log-softmax in float32, or float64 if the logits are: (..., vocab) -> same shape."""
    upcast = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(upcast, dim=-1)


def kl_of_log_probs(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) in nats from normalised log-probabilities: (..., vocab) -> (...)."""
    # A token that both models rule out contributes nothing; its -inf - -inf would be NaN.
    ruled_out = torch.isneginf(log_p)
    difference = (log_p - log_q).masked_fill(ruled_out, 0.0)
    return (log_p.exp() * difference).sum(-1)


def js_of_log_probs(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence in nats from normalised log-probabilities."""
    log_mixture = torch.logaddexp(log_p, log_q) - math.log(2)
    return (kl_of_log_probs(log_p, log_mixture) + kl_of_log_probs(log_q, log_mixture)) / 2
