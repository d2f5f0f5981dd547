"""Leaps: tokens at the start of an answer that the candidate likes far more than the reference.

Shows where behaviour may have changed at the cost of one reading of each prompt. Does not know
which leap is unusual (`pytest_divergence.discovery.prompt_ranks`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pytest_divergence.models.decoding import decode_together
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import LEAST_LOG_PROB
from pytest_divergence.scoring.continuations import Row, in_flight, read
from pytest_divergence.scoring.divergences import js, log_probs
from pytest_divergence.scoring.teacher_forcing import check_finite

NUM_POSITIONS = 4
"""Tokens of the candidate's answer that are looked at: reading the prompt costs more."""
LIKELY = 0.2
"""Probability from which on the candidate may be expected to write a token."""


@dataclass(frozen=True)
class Leap:
    """The largest leap at the start of one prompt's answer."""

    nats: float
    """ln q - ln p of a likely token; 0 where the reference likes each of them as much."""
    opening: tuple[int, ...]
    """Ids of the candidate's answer up to that token; empty without a leap."""
    first_token_js: float
    """Jensen-Shannon divergence at the answer's first token, nats: finite, whatever is ruled out.
    It orders prompts of equal leap."""

    @property
    def size(self) -> tuple[float, float]:
        """Key by which prompts are ordered, without the digits that depend on a batch."""
        return round(self.nats, 3), round(self.first_token_js, 4)


def largest_leaps(pair: ModelPair, rows: Sequence[Row]) -> list[Leap]:
    """Return the largest leap on each prompt, of `ModelPair.prompt_rows`, in order.

    Both models follow the candidate's most likely answer. With q the candidate's probability of a
    token v and p the reference's, a leap is max over v of ln q(v) - ln p(v), where q(v) is at least
    `LIKELY`; ln p counts as `LEAST_LOG_PROB` if it is less. Raises `NonFiniteLogitsError`.
    """

    def compute(batch: list[int]) -> list[Leap]:
        states = read(pair, [rows[index] for index in batch])
        first, steps = list[float](), list[tuple[list[float], list[int]]]()

        def choose(logits: list[Tensor], step: int) -> Tensor:
            for each, side in zip(logits, pair.sides, strict=True):
                check_finite(each, side)
            candidate, reference = logits[1], logits[0].to(logits[1].device)
            if step == 0:
                first.extend(js(reference, candidate).tolist())
            log_q, log_p = log_probs(candidate), log_probs(reference).clamp(min=LEAST_LOG_PROB)
            values, tokens = (log_q - log_p).masked_fill(log_q < math.log(LIKELY), 0.0).max(-1)
            steps.append((values.tolist(), tokens.tolist()))
            return log_q.argmax(-1)

        written = decode_together(states, NUM_POSITIONS, pair.chat.stop_ids, choose)
        return [_largest(ids, steps, row, first[row]) for row, ids in enumerate(written)]

    return in_flight(rows, compute)


def _largest(
    answer: Sequence[int],
    steps: Sequence[tuple[list[float], list[int]]],
    row: int,
    first_token_js: float,
) -> Leap:
    """Return a row's largest leap before its answer ends."""
    place = max(range(len(answer)), key=lambda step: steps[step][0][row])
    values, tokens = steps[place]
    opening = (*answer[:place], tokens[row]) if values[row] > 0 else ()
    return Leap(values[row], opening, first_token_js)
