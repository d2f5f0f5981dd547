"""The least that a side of a pair can be: it reads whole rows of ids, and knows nothing else.

No key-value cache, no embeddings, no weights. What works on it works on every side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pytest_divergence.models.batching import Prefix
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Decoding, LazyLogits, Meter, Role, Side
from tests.models_in_memory import bare_logits, local


@dataclass
class BareSide:
    """A model as the logits that it gives at each token of one row: (L,) ids -> (L, V)."""

    role: Role
    read: Callable[[Tensor], Tensor]
    vocab_size: int
    meter: Meter
    device = torch.device("cpu")

    @property
    def num_outcomes(self) -> int:
        return self.vocab_size

    def logits(self, bodies: Sequence[Tensor], *, prefix: Prefix = (), num_logits: int) -> Tensor:
        rows = []
        for body in bodies:
            logits = self.read(torch.tensor([*prefix, *body.tolist()]))[-num_logits:]
            padding = logits.new_zeros(num_logits - len(logits), self.vocab_size)
            rows.append(torch.cat([padding, logits]))
            self.meter.tokens_forwarded += len(body)
        return torch.stack(rows)

    def positions(
        self, bodies: Sequence[Tensor], *, prefix: Prefix = (), num_positions: int
    ) -> LazyLogits:
        logits = self.logits(bodies, prefix=prefix, num_logits=num_positions)
        return LazyLogits(logits.flatten(0, 1), self.vocab_size)

    def start(self, bodies: Sequence[Tensor], *, prefix: Prefix = ()) -> Decoding:
        with torch.no_grad():
            logits = self.logits(bodies, prefix=prefix, num_logits=1)[:, 0]
        return BareDecoding(self, [[*prefix, *body.tolist()] for body in bodies], logits)

    def reuse_prompts(self) -> nullcontext[None]:
        return nullcontext()


@dataclass
class BareDecoding:
    """Rows that are read from their beginning at each step."""

    side: BareSide
    rows: list[list[int]]
    logits: Tensor

    def fork(self, rows: Sequence[int]) -> Decoding:
        return BareDecoding(self.side, [self.rows[row] for row in rows], self.logits[list(rows)])

    @torch.no_grad()
    def positions_of(self, continuations: Sequence[Sequence[int]]) -> list[LazyLogits]:
        found = []
        for row, ids in zip(self.rows, continuations, strict=True):
            logits = self.side.read(torch.tensor([*row, *ids[:-1]]))[-len(ids) :]
            found.append(LazyLogits(logits, self.side.vocab_size))
            self.side.meter.tokens_forwarded += len(ids) - 1
        return found

    @torch.no_grad()
    def step(self, token_ids: Tensor) -> None:
        self.rows = [
            [*row, token_id] for row, token_id in zip(self.rows, token_ids.tolist(), strict=True)
        ]
        self.logits = torch.stack([self.side.read(torch.tensor(row))[-1] for row in self.rows])
        self.side.meter.tokens_forwarded += len(self.rows)


def bare_pair(pair: ModelPair) -> ModelPair:
    """The models of a pair behind sides that can do the least."""
    meter = Meter()

    def bare(side: Side) -> BareSide:
        model = local(side).model
        return BareSide(
            side.role, lambda ids: bare_logits(model, ids[None]), side.vocab_size, meter
        )

    return replace(pair, reference=bare(pair.reference), candidate=bare(pair.candidate))
