"""A side whose model reads each row by itself, unpadded: slower, and right for any causal model.

For models whose caches cannot be split into rows, or that read padding as if it were text. The
tokens after a prompt are read with the row's own cache, or without one in a full pass for each.
Does not know which models need it: `pytest_divergence.models.self_check` finds out.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pytest_divergence.models.batching import Prefix
from pytest_divergence.models.kv_cache import PrefixedRows
from pytest_divergence.models.side import LazyLogits, Meter
from pytest_divergence.models.transformers_side import TransformersSide


@dataclass
class RowSide(TransformersSide):
    """The reference or the candidate of a pair, a row at a time.

    Its meter counts what padded batches would read, not what is read again with each step or
    continuation: a slower path takes time, and a budget in tokens still is enough for a search.
    """

    shares_cache: bool = False
    keeps_cache: bool = True
    """Whether decoding a row continues from its own cache."""

    @classmethod
    def of(
        cls, side: TransformersSide, *, keeps_cache: bool, meter: Meter | None = None
    ) -> RowSide:
        """A side that reads the same model a row at a time, with its meter or another."""
        return cls(
            side.role,
            side.model,
            side.activate,
            meter or side.meter,
            side.vocabulary,
            keeps_cache=keeps_cache,
        )

    @property
    def reading(self) -> str:
        """Description of how rows are read, for messages."""
        return "a row at a time" if self.keeps_cache else "a row at a time, anew at each token"

    def start(self, bodies: Sequence[Tensor], *, prefix: Prefix = ()) -> RowDecoding:
        """Read each row, ready to decode after it; no gradients flow.

        Raises `TypeError` for a model that keeps no cache, unless `keeps_cache` is False.
        """
        with torch.no_grad(), self.activate():
            rows = list(self._rows(bodies, prefix).bodies)
            read = [self.read(row, num_logits=1, use_cache=self.keeps_cache) for row in rows]
        self.meter.tokens_forwarded += sum(map(len, rows))
        logits, caches = zip(*read, strict=True)
        if self.keeps_cache and None in caches:
            raise TypeError(f"a {type(self.model).__name__} keeps no cache")
        return RowDecoding(self, torch.cat(logits), rows, list(caches))

    def read(
        self, row: Tensor, cache: object | None = None, *, num_logits: int, use_cache: bool
    ) -> tuple[Tensor, object | None]:
        """Logits at the last positions of a row that follows what a cache holds: (N, V); its cache.

        `row` is ids (L,) or embeddings (L, D), N at most L. The cache is None if none is kept.
        """
        logits, kept = self._pass.alone(row.to(self.device), cache, num_logits, use_cache=use_cache)
        return self._outcomes(logits), kept

    def followed(self, row: Tensor, token_ids: Tensor) -> Tensor:
        """A row of ids (L,) or embeddings (L, D) with ids (T,) after it."""
        added = self.embed(token_ids) if row.is_floating_point() else self._fed(token_ids)
        return torch.cat([row, added.to(row.device)])

    def _parts(self, rows: PrefixedRows, num_logits: int) -> list[Tensor]:
        read = [self.read(row, num_logits=num_logits, use_cache=False) for row in rows.bodies]
        self.meter.tokens_forwarded += sum(map(len, rows.bodies))
        return [logits[None] for logits, _ in read]


@dataclass
class RowDecoding:
    """Rows in the middle of decoding; `logits` (B, V) predict the next token, in float32."""

    side: RowSide
    logits: Tensor
    _rows: list[Tensor]
    """All that each row has read: ids (L,) or embeddings (L, D)."""
    _caches: list[object | None]
    _is_forked: bool = False
    """Whether another batch continues from the same caches."""

    def fork(self, rows: Sequence[int]) -> RowDecoding:
        """A separate batch that continues the given rows, which may repeat."""
        self._is_forked = True
        return replace(
            self,
            logits=self.logits[torch.tensor(rows, device=self.logits.device)],
            _rows=[self._rows[row] for row in rows],
            _caches=[self._caches[row] for row in rows],
        )

    def positions_of(self, continuations: Sequence[Sequence[int]]) -> list[LazyLogits]:
        """Positions that predict each token of a continuation per row: T per row.

        Each row is read again with its continuation: one pass instead of one per token.
        """
        longest = max(map(len, continuations))
        if longest == 1:
            return [LazyLogits(first[None], len(first)) for first in self.logits]
        whole = [
            self.side.followed(row, torch.tensor(ids[:-1], dtype=torch.long))
            for row, ids in zip(self._rows, continuations, strict=True)
        ]
        read = replace(self.side, meter=Meter()).positions(whole, num_positions=longest)
        self.side.meter.tokens_forwarded += sum(len(ids) - 1 for ids in continuations)
        ends = range(longest, longest * len(whole) + 1, longest)
        return [
            read.at(torch.arange(end - len(ids), end))
            for end, ids in zip(ends, continuations, strict=True)
        ]

    def step(self, token_ids: Tensor) -> None:
        """Append one token to each row: (B,)."""
        side = self.side
        if self._is_forked:
            self._caches, self._is_forked = [copy.deepcopy(cache) for cache in self._caches], False
        with side.activate():
            fed = token_ids[:, None]
            self._rows = [side.followed(row, ids) for row, ids in zip(self._rows, fed, strict=True)]
            read = [
                side.read(
                    row if cache is None else row[-1:],
                    cache,
                    num_logits=1,
                    use_cache=side.keeps_cache,
                )
                for row, cache in zip(self._rows, self._caches, strict=True)
            ]
        side.meter.tokens_forwarded += len(read)
        logits, caches = zip(*read, strict=True)
        self.logits, self._caches = torch.cat(logits), list(caches)
