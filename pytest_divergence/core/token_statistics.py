"""Divergence at single tokens of ordinary answers, in the words of llama.cpp: plain values.

Does not know how they are computed (`pytest_divergence.scoring.control_tokens`).
"""

from __future__ import annotations

from pydantic import Field

from pytest_divergence.core.behaviours import Rate
from pytest_divergence.core.cases import FULL, Count, Number, Record


class ControlTokens(Record):
    """One control at all positions of both models' continuations of it."""

    kld: list[Number] = Field(min_length=1)
    """KL(reference ‖ candidate) at each position, nats."""
    delta_p_squared: Number
    """Sum over positions of the square of q(y) - p(y), y the token that stands there."""
    num_same_top: Count
    """Positions at which both models would choose the same token."""
    log_ratio: Number
    """Sum of ln p(y) - ln q(y) over the reference's continuations, nats."""
    num_reference: Count = Field(ge=1)
    """Positions of the reference's continuations."""
    evidence: str = FULL
    """Knowledge of a position: `full`, or `head:K` where a server told the likeliest tokens."""


class TokenStatistics(Record):
    """Divergence at the tokens of the controls' continuations, by both models.

    KLD is KL(reference ‖ candidate) at one position, in nats; its percentiles are over positions.
    """

    mean_kld: Number
    mean_kld_se: Number | None
    """Standard error of the mean, controls taken as clusters of positions; null for one control."""
    median_kld: Number
    p90_kld: Number
    """KLD that 90 % of the positions do not exceed."""
    p99_kld: Number
    p999_kld: Number
    """KLD that 99.9 % of the positions do not exceed."""
    max_kld: Number
    rms_delta_p: Rate
    """Root mean square of q(y) - p(y): the candidate's less the reference's probability of the
    token that stands there."""
    same_top: Rate
    """Share of positions at which both models would choose the same token."""
    ln_ppl_ratio: Number
    """ln(PPL(candidate) / PPL(reference)) on the reference's continuations, nats per token."""
    ln_ppl_ratio_se: Number | None
    """Standard error, as of the mean KLD."""
    num_tokens: Count
    num_controls: Count
    evidence: str = FULL
    """Knowledge of a position: `full`, or `head:K` where a server told the likeliest tokens; KLD is
    then estimated."""
