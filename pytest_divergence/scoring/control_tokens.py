"""Statistics over the tokens of controls' continuations, as quantisers know them from llama.cpp.

They are made of scores that the controls' measurement has already: no pass of a model is added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from pytest_divergence.core.token_statistics import ControlTokens, TokenStatistics
from pytest_divergence.scoring.scorer import PromptScore

DIGITS = 6
"""Significant digits of a position's KLD that are kept: float32 has hardly more."""


def control_tokens(score: PromptScore) -> ControlTokens | None:
    """Return what the statistics take from one control; None if a position has no finite KLD.

    With p the reference, q the candidate and y the token that stands at a position, KLD is
    KL(p || q) there, whoever has written y.
    """
    both = [*score.on_reference, *score.on_candidate]
    kld = torch.cat([tokens.forward for tokens in both]).double()
    log_p = torch.cat([tokens.reference_logprobs for tokens in both]).double()
    log_q = torch.cat([tokens.candidate_logprobs for tokens in both]).double()
    num_reference = sum(len(tokens.forward) for tokens in score.on_reference)
    log_ratio = float((log_p - log_q)[:num_reference].sum())
    if not (bool(kld.isfinite().all()) and math.isfinite(log_ratio)):
        return None
    return ControlTokens(
        kld=[float(f"{value:.{DIGITS}g}") for value in kld.tolist()],
        delta_p_squared=float(((log_q.exp() - log_p.exp()) ** 2).sum()),
        num_same_top=int(sum(tokens.same_top.sum() for tokens in both)),
        log_ratio=log_ratio,
        num_reference=num_reference,
        evidence=score.measurement.evidence,
    )


def token_statistics(controls: Sequence[ControlTokens | None]) -> TokenStatistics | None:
    """Return the statistics over all positions; None without controls, or if one has none.

    Percentiles lie between order statistics, linearly (Hyndman and Fan 1996, type 7, as llama.cpp
    has them). Positions of one control depend on each other, so that the standard error is that of
    a ratio over k controls: sqrt(k / (k - 1) * sum (S_i - mean * n_i)^2) / N, where control i has
    the sum S_i over n_i of N positions (Cochran 1977, section 6.3). llama.cpp takes all positions
    as independent, and its error is smaller.
    """
    found = [control for control in controls if control is not None]
    if not found or len(found) < len(controls):
        return None
    kld = np.concatenate([control.kld for control in found])
    mean, mean_se = _ratio([sum(c.kld) for c in found], [len(c.kld) for c in found])
    ln_ratio, ln_ratio_se = _ratio(
        [control.log_ratio for control in found], [control.num_reference for control in found]
    )
    median, p90, p99, p999 = (float(value) for value in np.quantile(kld, (0.5, 0.9, 0.99, 0.999)))
    return TokenStatistics(
        mean_kld=mean,
        mean_kld_se=mean_se,
        median_kld=median,
        p90_kld=p90,
        p99_kld=p99,
        p999_kld=p999,
        max_kld=float(kld.max()),
        rms_delta_p=math.sqrt(sum(control.delta_p_squared for control in found) / len(kld)),
        same_top=sum(control.num_same_top for control in found) / len(kld),
        ln_ppl_ratio=ln_ratio,
        ln_ppl_ratio_se=ln_ratio_se,
        num_tokens=len(kld),
        num_controls=len(found),
        evidence=found[0].evidence,
    )


def _ratio(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, float | None]:
    """Return the mean over all positions and its standard error; None for one control."""
    totals, sizes, count = np.array(sums), np.array(counts), len(sums)
    mean = float(totals.sum() / sizes.sum())
    if count < 2:
        return mean, None
    spread = math.sqrt(count / (count - 1) * float(((totals - mean * sizes) ** 2).sum()))
    return mean, spread / float(sizes.sum())
