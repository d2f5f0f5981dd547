"""A side that transformers runs: forward passes over rows of tokens or embeddings.

Rows are padded on the left and carry explicit position ids, so a row's logits do not depend on
what else is in the batch. The chat prefix that every row begins with is computed once and its keys
and values are shared. Within `TransformersSide.reuse_prompts` so are those of whole prompts. Does
not know chat formats, divergences or sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pytest_divergence.core.calibration_record import NuisanceKind
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.models.batching import Prefix, is_out_of_memory
from pytest_divergence.models.checkpointing import checkpointed_layers
from pytest_divergence.models.forward import ForwardPass, Padded, at_the_end
from pytest_divergence.models.kv_cache import (
    PrefixedRows,
    Prefixes,
    PromptCache,
    ReadBatch,
    forked,
    gather,
    keys_and_values,
)
from pytest_divergence.models.output_head import OutputHead, input_device
from pytest_divergence.models.side import Decoding, LazyLogits, Meter, Role
from pytest_divergence.models.switches import (
    Activate,
    WeightSwitch,
    attention_of,
    both,
    noisy_matrices,
    switched,
)
from pytest_divergence.models.tokenizers import Vocabulary

NUM_PROBED = 2
"""Tokens on whose embeddings a model is tried."""


@dataclass
class TransformersSide:
    """The reference or the candidate of a pair, with gradients and weights."""

    role: Role
    model: PreTrainedModel
    activate: Activate = nullcontext
    """Entered around each use: for an adapter pair it switches the adapter."""
    meter: Meter = field(default_factory=Meter)
    vocabulary: Vocabulary | None = None
    """Outcomes that its logits stand for; None: each row of the head is a token of both models."""
    shares_cache: bool = True
    """Whether rows may continue from keys and values that were computed before."""
    extends_cache: bool = True
    """Whether several tokens may be added to a cache at once."""
    _prompts: PromptCache | None = None

    def __post_init__(self) -> None:
        self._pass = ForwardPass(self.model)
        self._prefixes = Prefixes(self.model, self._pass, are_shared=self.shares_cache)
        self._head = OutputHead(self.model)

    @property
    def reading(self) -> str:
        """Description of how rows are read, for messages."""
        if not self.extends_cache:
            return "in padded batches, a token at a time"
        shared = " that share what they begin with" if self._prefixes.are_shared else ""
        return f"in padded batches{shared}"

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings."""
        return input_device(self.model)

    @property
    def num_rows(self) -> int:
        """Rows of the input embedding."""
        return len(self.embedding_table)

    @property
    def vocab_size(self) -> int:
        """Tokens that both models know: the ids that may be fed."""
        return self.vocabulary.num_shared if self.vocabulary else self.num_rows

    @property
    def num_outcomes(self) -> int:
        """Number of columns of the logits: the outcomes for a next token."""
        return self.vocabulary.num_outcomes if self.vocabulary else self.num_rows

    @property
    def embedding_table(self) -> Tensor:
        """The input embeddings of all tokens: (vocab, D)."""
        table = self.model.get_input_embeddings().weight
        assert isinstance(table, Tensor)  # nn.Module types its attributes loosely
        return table.detach()

    def embed(self, token_ids: Tensor) -> Tensor:
        """Input embeddings of ids: (L,) -> (L, D), as the model itself computes them."""
        with self.activate():
            embedded: Tensor = self.model.get_input_embeddings()(
                self._fed(token_ids).to(self.device)
            )
        return embedded

    @cached_property
    def takes_embeddings(self) -> bool:
        """Whether the model reads embeddings that belong to no token; some models need the ids too.

        Tried once, on tokens that are not counted.
        """
        middle = self.embed(torch.arange(NUM_PROBED)).mean(0, keepdim=True)
        try:
            with torch.no_grad():
                replace(self, meter=Meter()).logits([middle], num_logits=1)
        except Exception as error:  # models raise different errors for it
            if is_out_of_memory(error):
                raise
            return False
        return True

    def passes_gradients(self) -> bool:
        """Whether a nonzero gradient reaches the input embeddings: tried on two tokens.

        Models that take embeddings and are not quantised are assumed to pass gradients.
        """
        if not self.takes_embeddings or getattr(self.model, "hf_quantizer", None) is None:
            return self.takes_embeddings
        embeds = self.embed(torch.arange(NUM_PROBED)).detach().requires_grad_(True)
        try:
            logits = self.logits([embeds], num_logits=1)
            logits.log_softmax(-1)[..., 0].sum().backward()  # type: ignore[no-untyped-call]
        except Exception:  # kernels without a backward pass raise different errors
            return False
        gradient = embeds.grad
        return gradient is not None and bool(torch.isfinite(gradient).all() and gradient.any())

    def checkpointed_layers(self) -> AbstractContextManager[None]:
        """Keep only each layer's input within it; see `checkpointing.checkpointed_layers`."""
        return checkpointed_layers(self.model, self.activate, role=self.role)

    @property
    def attention(self) -> str:
        """The attention implementation that the model runs."""
        return attention_of(self.model)

    @property
    def is_spread(self) -> bool:
        """Whether the layers lie on several devices."""
        return hasattr(self.model, "hf_device_map")

    @contextmanager
    def under(self, kind: NuisanceKind, setting: str) -> Iterator[TransformersSide]:
        """Run the model under another attention, dtype or device, and switch it back."""
        with switched(self.model, kind, setting):
            yield self._unread()

    @contextmanager
    def under_noise(
        self, noisy: Callable[[str, Tensor], Tensor]
    ) -> Iterator[tuple[TransformersSide, TransformersSide]]:
        """Run the model as the reference it is, and as a candidate with noise in its matrices.

        Takes memory for one more copy of its matrices.
        """
        switch = WeightSwitch(noisy_matrices(self.model, noisy))
        if not len(switch):
            raise MeasurementError(
                f"the {self.role} has no weight matrix in floating point (it is quantised), so no "
                "noise can be added to it"
            )
        try:
            yield (
                self._unread("reference", both(self.activate, switch.own)),
                self._unread("candidate", both(self.activate, switch.others)),
            )
        finally:
            switch.restore()

    def _unread(
        self, role: Role | None = None, activate: Activate | None = None
    ) -> TransformersSide:
        """The side without any chat prefix or prompt read yet."""
        return replace(
            self, role=role or self.role, activate=activate or self.activate, _prompts=None
        )

    def _fed(self, token_ids: Tensor) -> Tensor:
        """Ids that can be fed: a row that ended with an added token continues with another."""
        return token_ids.clamp(max=self.vocab_size - 1) if self.vocabulary else token_ids

    def logits(self, bodies: Sequence[Tensor], *, prefix: Prefix = (), num_logits: int) -> Tensor:
        """Logits at the last `num_logits` positions of each row, in float32: (B, num_logits, V).

        `bodies` are ids (L,) or embeddings (L, D) that follow `prefix`. Gradients flow to
        embeddings that ask for them.
        """
        with self.activate():
            return at_the_end(self._parts(self._rows(bodies, prefix), num_logits), num_logits)

    @contextmanager
    def reuse_prompts(self) -> Iterator[None]:
        """Read a prompt of ids only once within it, whatever is computed from it.

        Keeps up to `kv_cache.KEPT_BYTES`, and forgets them at the end. Inside another
        `reuse_prompts` it changes nothing.
        """
        if self._prompts is not None:
            yield
            return
        self._prompts = PromptCache()
        try:
            yield
        finally:
            self._prompts = None

    def positions(
        self, bodies: Sequence[Tensor], *, prefix: Prefix = (), num_positions: int
    ) -> LazyLogits:
        """The last `num_positions` positions of each row, one row after the other.

        Otherwise like `logits`, but logits that would take much memory are made only when they are
        used.
        """
        with self.activate():  # the prefix is read by this side too
            rows = self._rows(bodies, prefix)
            is_kept = self._keeps(rows) and not torch.is_grad_enabled()

            def forward() -> list[Tensor]:
                if not is_kept:
                    return self._parts(rows, num_positions)
                read = self._start(rows, num_logits=num_positions, use_cache=True)
                self._keep(rows, *read)
                return [read[0]]

            states, to_logits = self._states(forward, len(bodies), num_positions)
        return LazyLogits(states.flatten(0, 1), self.num_outcomes, to_logits)

    def start(self, bodies: Sequence[Tensor], *, prefix: Prefix = ()) -> Decoding:
        """Read each row, ready to decode after it; no gradients flow."""
        with torch.no_grad(), self.activate():
            rows = self._rows(bodies, prefix)
            return (self._resumed if self._keeps(rows) else self._read)(rows)

    def _keeps(self, rows: PrefixedRows) -> bool:
        """Whether keys and values of these rows are kept: rows of ids, within `reuse_prompts`."""
        is_told = self._prompts is not None and self.shares_cache
        return is_told and not rows.bodies[0].is_floating_point()

    def _read(self, rows: PrefixedRows) -> CachedDecoding:
        logits, cache, mask = self._start(rows, num_logits=1, use_cache=True)
        return CachedDecoding(self, logits[:, -1], cache, mask)

    def _resumed(self, rows: PrefixedRows) -> CachedDecoding:
        """Decoding after these rows, of which only those not read before are read."""
        assert self._prompts is not None
        places = [self._prompts.get(row) for row in rows.keys]
        unread = [index for index, place in enumerate(places) if place is None]
        if unread:
            new = rows.only(unread)
            read = self._start(new, num_logits=1, use_cache=True)
            batch = self._keep(new, *read)
            if len(unread) == len(places):
                return CachedDecoding(self, read[0][:, -1], *read[1:])
            if batch is None:  # parts of some rows are forgotten, so none can continue from them
                return self._read(rows)
            for place, index in enumerate(unread):
                places[index] = (batch, place)
        logits, cache = gather(
            [place for place in places if place is not None],
            [len(body) for body in rows.bodies],
            self._prefixes.new_cache(rows.shared, len(places)),
        )
        mask = rows.attention_mask(Padded.of(rows.bodies, self.device))
        return CachedDecoding(self, logits, cache, self._prefixes.pack_left(cache, mask))

    def _keep(
        self, rows: PrefixedRows, logits: Tensor, cache: DynamicCache | None, mask: Tensor
    ) -> ReadBatch | None:
        """The batch of these rows as read, kept if there is room; None if it is incomplete."""
        layers = keys_and_values(cache, mask.shape[1]) if cache is not None else None
        if layers is None or self._prompts is None:
            return None
        batch = ReadBatch.of(layers, logits, longest=max(map(len, rows.bodies)))
        self._prompts.keep(rows.keys, batch)
        return batch

    def _parts(self, rows: PrefixedRows, num_logits: int) -> list[Tensor]:
        """Logits (B, N, V) of each pass over some of the rows; here one pass reads all."""
        return [self._start(rows, num_logits=num_logits, use_cache=False)[0]]

    def _start(
        self, rows: PrefixedRows, *, num_logits: int, use_cache: bool
    ) -> tuple[Tensor, DynamicCache | None, Tensor]:
        padded = Padded.of(rows.bodies, self.device)
        is_cached = use_cache or rows.shared is not None
        cache = self._prefixes.new_cache(rows.shared, len(rows.bodies)) if is_cached else None
        mask = rows.attention_mask(padded)
        num_shared = mask.shape[1] - padded.mask.shape[1]
        positions = num_shared + (padded.mask.cumsum(1) - 1).clamp(min=0)
        logits = self._forward(padded.rows, mask, positions, cache, num_logits)
        # Counted after success, for what ran out of memory is done again, and without the prefix,
        # which each session computes anew: an interrupted run spends its budget as any other.
        self.meter.tokens_forwarded += int(padded.mask.sum())
        if use_cache and cache is not None:
            mask = self._prefixes.pack_left(cache, mask)
        return logits, cache, mask

    def _rows(self, bodies: Sequence[Tensor], prefix: Prefix) -> PrefixedRows:
        """The rows after a prefix that they share; rows that cannot share it contain it."""
        shared = self._prefixes.shared(prefix, longest=max(map(len, bodies)))
        if shared is not None:
            return PrefixedRows(prefix, shared, bodies)
        return PrefixedRows((), None, [self._with_prefix(prefix, body) for body in bodies])

    def _forward(
        self,
        rows: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: DynamicCache | None,
        num_logits: int,
    ) -> Tensor:
        try:
            return self._outcomes(self._pass(rows, mask, positions, cache, num_logits))
        except Exception as error:
            if self._prompts is not None and is_out_of_memory(error):
                self._prompts.forget()  # makes room for a smaller batch
            raise

    def _outcomes(self, logits: Tensor) -> Tensor:
        """Logits of the outcomes: (..., rows of the head) -> (..., num_outcomes)."""
        return self.vocabulary.fold(logits) if self.vocabulary else logits

    def _states(
        self, forward: Callable[[], list[Tensor]], num_rows: int, num_positions: int
    ) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
        """Hidden states of passes and the function from them to logits; or (B, N, V) and None."""
        if not self._head.can_wait(num_rows * num_positions * self.num_rows):
            return at_the_end(forward(), num_positions), None
        with self._head.spared() as reached:
            forward()
        return at_the_end(reached, num_positions), self._to_logits

    def _to_logits(self, states: Tensor) -> Tensor:
        with self.activate():  # an adapter may change the head too
            return self._outcomes(self._head(states))

    def _with_prefix(self, prefix: Prefix, body: Tensor) -> Tensor:
        if not prefix:
            return body
        ids = torch.tensor(prefix, device=self.device)
        start = self.embed(ids) if body.is_floating_point() else ids
        return torch.cat([start, body.to(self.device)])


@dataclass
class CachedDecoding:
    """A batch in the middle of decoding; `logits` (B, V) predict the next token, in float32."""

    side: TransformersSide
    logits: Tensor
    _cache: DynamicCache | None
    _mask: Tensor

    def fork(self, rows: Sequence[int]) -> CachedDecoding:
        """A separate batch that continues the given rows, which may repeat."""
        index = torch.tensor(rows, device=self.logits.device)
        cache = None if self._cache is None else forked(self._cache, index)
        mask = self._mask[index.to(self._mask.device)]
        return CachedDecoding(self.side, self.logits[index], cache, mask)

    def positions_of(self, continuations: Sequence[Sequence[int]]) -> list[LazyLogits]:
        """Positions that predict each token of a continuation per row: T per row.

        Spends the batch: its cache holds the continuations afterwards.
        """
        if not self.side.extends_cache:
            return self._stepped(continuations)
        longest = max(map(len, continuations))
        first, vocab_size = self.logits[:, None], self.logits.shape[-1]
        if longest == 1:
            return [LazyLogits(row, vocab_size) for row in first]
        side = self.side
        with side.activate():
            rest, to_logits = side._states(
                lambda: [self._read(continuations)], len(continuations), longest - 1
            )
        lengths = map(len, continuations)
        if to_logits is None:
            logits = torch.cat([first, rest], dim=1)
            return [
                LazyLogits(row[:length], vocab_size)
                for row, length in zip(logits, lengths, strict=True)
            ]
        return [
            LazyLogits(states[: length - 1], vocab_size, to_logits, row)
            for row, states, length in zip(self.logits, rest, lengths, strict=True)
        ]

    def _stepped(self, continuations: Sequence[Sequence[int]]) -> list[LazyLogits]:
        """Read the continuations a token at a time; shorter ones repeat their last token."""
        logits = [self.logits]
        for place in range(max(map(len, continuations)) - 1):
            column = torch.tensor([ids[min(place, len(ids) - 1)] for ids in continuations])
            self.step(column.to(self.side.device))
            logits.append(self.logits)
        return [
            LazyLogits(row[: len(ids)], row.shape[-1])
            for row, ids in zip(torch.stack(logits, dim=1), continuations, strict=True)
        ]

    def _read(self, continuations: Sequence[Sequence[int]]) -> Tensor:
        """Read all tokens of the continuations but the last: logits (B, longest - 1, V)."""
        longest = max(map(len, continuations))
        # Padding goes to the right here: what a row has read stands to its left, in the cache.
        fed = torch.zeros(len(continuations), longest - 1, dtype=torch.long)
        is_fed = torch.zeros_like(fed)
        for row, ids in enumerate(continuations):
            fed[row, : len(ids) - 1] = torch.tensor(ids[:-1], dtype=torch.long)
            is_fed[row, : len(ids) - 1] = 1
        mask = torch.cat([self._mask, is_fed.to(self._mask)], dim=1)
        positions = self._mask.sum(1, keepdim=True) + torch.arange(longest - 1).to(self._mask)
        side = self.side
        rest = side._forward(fed.to(side.device), mask, positions, self._cache, longest - 1)
        side.meter.tokens_forwarded += int(is_fed.sum())
        return rest

    def step(self, token_ids: Tensor) -> None:
        """Append one token to each row: (B,)."""
        mask = torch.cat([self._mask, self._mask.new_ones(len(token_ids), 1)], dim=1)
        positions = self._mask.sum(1, keepdim=True)
        side = self.side
        with side.activate():
            fed = side._fed(token_ids)[:, None]
            logits = side._forward(fed, mask, positions, self._cache, 1)
        side.meter.tokens_forwarded += len(token_ids)
        self.logits, self._mask = logits[:, -1], mask
