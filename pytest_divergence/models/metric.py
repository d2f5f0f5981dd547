"""What a metric is: from the logits of both models to one number a position.

Does not know which metrics there are (`pytest_divergence.scoring.metrics`).
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Metric(Protocol):
    """Says how far two models' next-token distributions are apart.

    An attribute `unit` (a short text, such as `"changes/token"`) names what the numbers count;
    without it they are nats per token.
    """

    def measure(self, reference_logits: Tensor, candidate_logits: Tensor) -> Tensor:
        """The divergence at each position of a shared context: (..., vocab) -> (...).

        Its mean over positions is compared with `max_kl`. Logits are float32 or better, and -inf
        where a model rules a token out. The result must be finite.
        """
