"""Checks of what a server tells at one position, before it counts.

A server may be another program than it says, stand behind a proxy, or have a fault. What it tells
of a distribution has to be one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from pytest_divergence.models.endpoints.http_client import Server

SLACK = 1e-3
"""Rounding, in nats, that a server's own numbers may have among themselves."""


class Position(NamedTuple):
    """Log-probabilities, in nats, at one position: of one token, and of the likeliest ones."""

    chosen: float
    head_ids: tuple[int, ...]
    head: tuple[float, ...]


def checked_position(
    server: Server,
    chosen: Any,
    token_id: int,
    head: Sequence[tuple[Any, Any]],
    *,
    num_told: int,
    vocab_size: int,
) -> Position:
    """Return what a server tells of `token_id` and of its head, pairs of id and ln p.

    Raises `MeasurementError` for a head that is cut, not sorted, or no part of a distribution, and
    for a token that does not fit it.
    """
    ids, log_probs = [id_ for id_, _ in head], [log_p for _, log_p in head]
    if len(ids) != num_told:
        server.refuse(
            f"tells {len(ids)} of the {num_told} most likely tokens that it was asked for"
        )
    if not all(_is_id(id_, vocab_size) for id_ in ids) or len(set(ids)) != len(ids):
        server.refuse(f"names tokens that are no ids, or one of them twice: {str(ids)[:100]}")
    if not all(map(_is_log_prob, [*log_probs, chosen])):
        server.refuse(
            f"tells what is no log-probability, a number up to 0: {str([chosen, *log_probs])[:100]}"
        )
    if any(later > earlier + SLACK for earlier, later in pairwise(log_probs)):
        server.refuse(f"tells the most likely tokens out of order: {str(log_probs)[:100]}")
    if (mass := sum(map(math.exp, log_probs))) > 1 + SLACK:
        server.refuse(f"tells probabilities that sum to {mass:.4f}, which is more than 1")
    told = dict(zip(ids, log_probs, strict=True)).get(token_id)
    if told is not None and abs(told - chosen) > SLACK:
        server.refuse(f"tells two values of token {token_id}: {chosen:.6f} and {told:.6f}")
    if told is None and chosen > log_probs[-1] + SLACK:
        server.refuse(
            f"tells {chosen:.4f} of token {token_id}, which is more than the least of its most "
            f"likely tokens has, {log_probs[-1]:.4f}"
        )
    return Position(float(chosen), tuple(ids), tuple(map(float, log_probs)))


def _is_id(value: Any, vocab_size: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocab_size


def _is_log_prob(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value <= SLACK
