"""A side that a server runs: what it tells of continuations, and what it writes.

It knows no whole distribution, so what needs one raises `MeasurementError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn, Protocol, TypeVar

import torch
from torch import Tensor

from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.models.batching import Prefix
from pytest_divergence.models.endpoints.positions import Position
from pytest_divergence.models.side import LazyLogits, Meter, Role, Told

Found = TypeVar("Found")


class Dialect(Protocol):
    """Source of what a side tells: a server of one kind, or a record."""

    @property
    def name(self) -> str:
        """Name for the beginning of a message."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens that it knows."""

    @property
    def num_told(self) -> int:
        """Number of most likely tokens that it tells at each position."""

    @property
    def num_slots(self) -> int:
        """Number of rows that it reads at the same time."""

    @property
    def digest(self) -> str:
        """Digest of its weights, or of what it says of them."""

    @property
    def names_weights(self) -> bool:
        """Whether an equal digest means equal weights."""

    @property
    def writes(self) -> bool:
        """Whether it writes answers."""

    def connected(self) -> AbstractContextManager[Any]:
        """Connect for some questions."""

    def positions(
        self,
        connection: Any,
        context: Sequence[int],
        token_ids: Sequence[int],
        *,
        is_reversed: bool = False,
        is_read_anew: bool = False,
    ) -> list[Position]:
        """Return what it tells of each token of a continuation. Raises `MeasurementError`."""

    def head(self, connection: Any, context: Sequence[int]) -> Position:
        """Return what it tells of the next token after a context, the likeliest as the chosen one.

        Raises `MeasurementError`.
        """

    def answer(
        self,
        connection: Any,
        context: Sequence[int],
        limit: int,
        seed: int | None,
        temperature: float,
    ) -> list[int]:
        """Return ids that it samples, the likeliest if no seed. Raises `MeasurementError`."""


@dataclass
class ServedSide:
    """The reference or the candidate of a pair, of which a server or a record tells parts."""

    role: Role
    dialect: Dialect
    meter: Meter = field(default_factory=Meter)
    device = torch.device("cpu")

    @property
    def vocab_size(self) -> int:
        """Number of tokens that the server knows."""
        return self.dialect.vocab_size

    @property
    def num_outcomes(self) -> int:
        """Number of outcomes for a next token."""
        return self.dialect.vocab_size

    def logits(self, bodies: Sequence[Tensor], *, prefix: Prefix = (), num_logits: int) -> Tensor:
        """Raise `MeasurementError`: a server tells no logits."""
        self.has_no_logits()

    def positions(
        self, bodies: Sequence[Tensor], *, prefix: Prefix = (), num_positions: int
    ) -> LazyLogits:
        """Raise `MeasurementError`: a server tells no logits."""
        self.has_no_logits()

    def start(self, bodies: Sequence[Tensor], *, prefix: Prefix = ()) -> ServedRows:
        """Take rows to be read; the server reads them when it is asked about what follows."""
        return ServedRows(self, [(*prefix, *body.tolist()) for body in bodies])

    def reuse_prompts(self) -> AbstractContextManager[None]:
        """Change nothing: a server keeps by itself what it has read."""
        return nullcontext()

    def has_no_logits(self) -> NoReturn:
        """Raise `MeasurementError` where whole distributions are needed."""
        raise MeasurementError(
            f"{self.dialect.name} tells its {self.dialect.num_told} most likely tokens, but this "
            "needs the probabilities of all: give the weights as a folder or Hub id, or replay a "
            "suite, for which that is enough"
        )


@dataclass
class ServedRows:
    """A batch of rows for a server, in place of a `Decoding`."""

    side: ServedSide
    rows: list[tuple[int, ...]]
    num_read: int = 0
    """Tokens of the rows that are counted already."""

    @property
    def num_told(self) -> int:
        """Number of the most likely tokens that are told at each position."""
        return self.side.dialect.num_told

    @cached_property
    def logits(self) -> Tensor:
        """ln p of the next token: (B, V). What is left by the likeliest is spread over the others.

        Good enough to choose among the likeliest, and for nothing that is measured.
        """
        dialect = self.side.dialect
        with dialect.connected() as connection:
            heads = _by_slots(
                dialect.num_slots,
                len(self.rows),
                lambda number: dialect.head(connection, self.rows[number]),
            )
        self.side.meter.tokens_forwarded += sum(map(len, self.rows)) - self.num_read
        self.num_read = sum(map(len, self.rows))
        return torch.stack([spread(head, dialect.vocab_size) for head in heads])

    def fork(self, rows: Sequence[int]) -> ServedRows:
        """Return a separate batch of the given rows, which may repeat."""
        return ServedRows(self.side, [self.rows[row] for row in rows])

    def positions_of(self, continuations: Sequence[Sequence[int]]) -> list[LazyLogits]:
        """Raise `MeasurementError`: a server tells no logits."""
        self.side.has_no_logits()

    def step(self, token_ids: Tensor) -> None:
        """Append a token to each row: (B,)."""
        self.rows = [
            (*row, token_id) for row, token_id in zip(self.rows, token_ids.tolist(), strict=True)
        ]
        vars(self).pop("logits", None)

    def told(
        self,
        continuations: Sequence[Sequence[int]],
        *,
        is_reversed: bool = False,
        is_read_anew: bool = False,
    ) -> list[Told]:
        """Return what the server tells of a continuation per row.

        It is asked from the last token to the first with `is_reversed`, and with `is_read_anew`
        keeps nothing between two questions: neither may change a value.
        """
        dialect = self.side.dialect

        def read(connection: Any, number: int) -> Told:
            row, ids = self.rows[number], continuations[number]
            found = dialect.positions(
                connection, row, ids, is_reversed=is_reversed, is_read_anew=is_read_anew
            )
            return _told(ids, found)

        with dialect.connected() as connection:
            told = _by_slots(dialect.num_slots, len(self.rows), lambda n: read(connection, n))
        for row, ids in zip(self.rows, continuations, strict=True):
            self.side.meter.tokens_forwarded += len(row) + len(ids) - 1
        return told

    def answers(
        self, limit: int, seeds: Sequence[int] | None, temperature: float = 1.0
    ) -> list[list[int]]:
        """Return what the server writes after each row: sampled, or the likeliest if no seeds."""
        dialect = self.side.dialect

        def write(connection: Any, number: int) -> list[int]:
            seed = None if seeds is None else seeds[number]
            return dialect.answer(connection, self.rows[number], limit, seed, temperature)

        with dialect.connected() as connection:
            found = _by_slots(dialect.num_slots, len(self.rows), lambda n: write(connection, n))
        for row, ids in zip(self.rows, found, strict=True):
            self.side.meter.tokens_forwarded += len(row) + len(ids)
        return found


def _by_slots(num_slots: int, count: int, compute: Callable[[int], Found]) -> list[Found]:
    """Return `compute` of 0 to `count` - 1: a row a slot, so that each reads on where it was."""
    with ThreadPoolExecutor(num_slots) as pool:
        return list(pool.map(compute, range(count)))


def spread(head: Position, vocab_size: int) -> Tensor:
    """Return ln p of all tokens, those of the head as told, the others alike: (V,)."""
    told = torch.tensor(head.head, dtype=torch.float64)
    left = max(1 - float(told.exp().sum()), 1e-6) / max(1, vocab_size - len(told))
    found = torch.full((vocab_size,), math.log(left))
    found[list(head.head_ids)] = told.float()
    return found


def _told(ids: Sequence[int], positions: Sequence[Position]) -> Told:
    return Told(
        torch.tensor(ids),
        torch.tensor([position.chosen for position in positions]),
        torch.tensor([position.head_ids for position in positions]),
        torch.tensor([position.head for position in positions]),
    )
