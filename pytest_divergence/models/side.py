"""One model of a pair, by what it can do: the Protocols of a side, for all above this folder.

Every side reads rows of token ids and decodes after them: enough to score, to decode and to
search. Some also pass gradients to their inputs, which soft prompts need, and some have weights in
this process, which a calibration switches. A served one does less: it tells the probabilities of
given tokens and of the most likely ones, and writes by itself. Knows no library that runs models;
the side that transformers runs is in `pytest_divergence.models.transformers_side`, and the served
one in `pytest_divergence.models.endpoints.served_side`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from pytest_divergence.core.calibration_record import NuisanceKind
from pytest_divergence.models.batching import Prefix

Role = Literal["reference", "candidate"]


@dataclass
class Meter:
    """Counts the tokens that both models of a pair have forwarded."""

    tokens_forwarded: int = 0


@dataclass(frozen=True)
class LazyLogits:
    """Logits of one model at N positions: `to_logits` makes (N, V) of `states` (N, D).

    If the logits are made already, they are the states.
    """

    states: Tensor
    vocab_size: int
    to_logits: Callable[[Tensor], Tensor] | None = None
    first: Tensor | None = None
    """Logits (V,) of one more position, before the others."""

    @property
    def is_whole(self) -> bool:
        """Whether all logits are in memory."""
        return self.to_logits is None

    def __len__(self) -> int:
        return len(self.states) + (self.first is not None)

    def logits(self, start: int, stop: int) -> Tensor:
        """Logits of the positions from `start` to before `stop`, in float32: (stop - start, V)."""
        skipped = int(self.first is not None)
        states = self.states[max(0, start - skipped) : stop - skipped]
        logits = states if self.to_logits is None else self.to_logits(states)
        if self.first is None or start:
            return logits
        return torch.cat([self.first[None], logits.to(self.first.device)])

    def at(self, index: Tensor) -> LazyLogits:
        """The positions of (M,) indices; there must be no `first`."""
        assert self.first is None
        return replace(self, states=self.states[index.to(self.states.device)])


class Side(Protocol):
    """The reference or the candidate of a pair: reads rows of ids, and decodes after them.

    A row's numbers do not depend on the other rows. The meter counts tokens as they are read,
    without padding and prefixes.
    """

    @property
    def role(self) -> Role:
        """Name of its place in the pair."""

    @property
    def meter(self) -> Meter:
        """Counter of the tokens that both sides of the pair have read."""

    @property
    def device(self) -> torch.device:
        """Device that takes the ids that are fed."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens that both models know: the ids that may be fed."""

    @property
    def num_outcomes(self) -> int:
        """Number of columns V of the logits: the outcomes for a next token."""

    def logits(self, bodies: Sequence[Tensor], *, prefix: Prefix = (), num_logits: int) -> Tensor:
        """Logits at the last `num_logits` positions of each row, in float32: (B, num_logits, V).

        `bodies` are ids (L,) that follow `prefix`.
        """

    def positions(
        self, bodies: Sequence[Tensor], *, prefix: Prefix = (), num_positions: int
    ) -> LazyLogits:
        """The last `num_positions` positions of each row, one row after the other.

        Otherwise like `logits`, but logits that would take much memory may be made later.
        """

    def start(self, bodies: Sequence[Tensor], *, prefix: Prefix = ()) -> Decoding:
        """Read each row, ready to decode after it; no gradients flow."""

    def reuse_prompts(self) -> AbstractContextManager[None]:
        """Read no prompt twice within it, as far as memory allows."""


@dataclass(frozen=True)
class Told:
    """Log-probabilities, in nats, that a served model tells at the T tokens of a continuation."""

    ids: Tensor
    """The tokens: (T,)."""
    chosen: Tensor
    """ln p of each: (T,)."""
    head_ids: Tensor
    """Ids of the most likely tokens, the likeliest first: (T, K)."""
    head: Tensor
    """ln p of these: (T, K)."""


class Decoding(Protocol):
    """A batch in the middle of decoding."""

    @property
    def side(self) -> Side:
        """The side that decodes."""

    @property
    def logits(self) -> Tensor:
        """Logits (B, V) of the next token of each row, in float32."""

    def fork(self, rows: Sequence[int]) -> Decoding:
        """A separate batch that continues the given rows, which may repeat."""

    def positions_of(self, continuations: Sequence[Sequence[int]]) -> list[LazyLogits]:
        """Positions that predict each token of a continuation per row: T per row.

        Spends the batch.
        """

    def step(self, token_ids: Tensor) -> None:
        """Append one token to each row: (B,)."""


@runtime_checkable
class SideWithGradients(Side, Protocol):
    """A side that reads embeddings (L, D) wherever it reads ids, and gives them gradients."""

    def embed(self, token_ids: Tensor) -> Tensor:
        """Input embeddings of ids: (L,) -> (L, D), as the model itself computes them."""

    @property
    def takes_embeddings(self) -> bool:
        """Whether the model reads embeddings that belong to no token."""

    def passes_gradients(self) -> bool:
        """Whether a nonzero gradient reaches the input embeddings."""

    def checkpointed_layers(self) -> AbstractContextManager[None]:
        """Compute inner values of layers twice within it, instead of keeping them for gradients.

        Rows have no prefix then. Raises `SettingsError` if the model has no such layers.
        """


@runtime_checkable
class SideWithWeights(Side, Protocol):
    """A side whose weights are in this process: the model can be switched for a while.

    A switch yields the same model, so use it within the switch, and the two in turn.
    """

    @property
    def attention(self) -> str:
        """The attention implementation that the model runs."""

    @property
    def is_spread(self) -> bool:
        """Whether the layers lie on several devices."""

    def under(self, kind: NuisanceKind, setting: str) -> AbstractContextManager[Side]:
        """Run the model under another attention, dtype or device.

        Raises whatever the model or the machine raises.
        """

    def under_noise(
        self, noisy: Callable[[str, Tensor], Tensor]
    ) -> AbstractContextManager[tuple[Side, Side]]:
        """Run the model twice: as the reference it is, and as a candidate with noise in it.

        `noisy` makes the noisy values of a weight matrix from its name and its own values. Names
        are the base's own and adapters get no noise, so that a base is the same under an adapter.
        Raises `MeasurementError` for a model without matrices in floating point.
        """
