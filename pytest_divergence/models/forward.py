"""One forward pass of any causal model: padded rows in, logits out.

Knows the argument names of architectures and versions of transformers, and with which library a CPU
multiplies matrices faster. Does not know prefixes, roles or which tokens are
compared.
"""

from __future__ import annotations

import inspect
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

CACHE_ARGUMENTS = ("cache", "past_key_values", "cache_params", "state")
"""Names that models give their cache argument, the newest first: transformers 5.24 renamed it."""

CPU_INFO = Path("/proc/cpuinfo")
MKL_IS_SLOW_ON = "AuthenticAMD"
"""A CPU maker, as `CPU_INFO` names it."""
MAX_ERROR = 1e-5
"""Largest error of a product, as a share of its largest entry: float32 has 1e-6, bfloat16 4e-3."""
PROBED_ROWS = (1, 16, 256)
"""Numbers of rows of the products on which oneDNN is tried."""
MIN_READ, MAX_SCORES = 8, 200_000
"""Tokens that a pass reads at least, and attention scores of one head at most, for attention in
whole products to be faster: `benchmarks/products.py`."""


@dataclass
class Padded:
    """Rows padded on the left: `rows` (B, L) ids or (B, L, D) embeddings, `mask` (B, L)."""

    rows: Tensor
    mask: Tensor

    @staticmethod
    def of(bodies: Sequence[Tensor], device: torch.device) -> Padded:
        """Pad rows of ids (L,) or of embeddings (L, D); all of one kind."""
        longest = max(len(body) for body in bodies)
        rows, mask = [], torch.zeros(len(bodies), longest, dtype=torch.long, device=device)
        for index, body in enumerate(bodies):
            missing = longest - len(body)
            rows.append(torch.cat([_padding(body, missing), body]).to(device))
            mask[index, missing:] = 1
        return Padded(torch.stack(rows), mask)


def _padding(body: Tensor, length: int) -> Tensor:
    """Return `length` rows before a body: zeros for ids, its first embedding without gradients.

    Nothing reads them, but some models take the root of an embedding's mean square, whose gradient
    at zero is not a number.
    """
    if body.is_floating_point():
        return body[:1].detach().expand(length, *body.shape[1:])
    return body.new_zeros(length)


def at_the_end(parts: Sequence[Tensor], length: int) -> Tensor:
    """The last `length` positions of parts (B, L, D), one part after the other: (N, length, D).

    Shorter parts are padded on the left with zeros.
    """
    ends = [part[:, -length:] for part in parts]
    ends = [
        end if end.shape[1] == length else pad(end, (0, 0, length - end.shape[1], 0))
        for end in ends
    ]
    return ends[0] if len(ends) == 1 else torch.cat(ends)


class ForwardPass:
    """A model as a function of rows and of a cache of earlier ones."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        parameters = _forward_parameters(type(model))
        self._keeps_logits = "logits_to_keep" in parameters
        # A model that accepts a cache under an unknown name ignores it, and would keep nothing.
        known = [name for name in CACHE_ARGUMENTS if name in parameters]
        self._cache_argument = known[0] if known else None

    def __call__(
        self,
        rows: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: DynamicCache | None,
        num_logits: int,
    ) -> Tensor:
        """Logits at the last `num_logits` positions, in float32: (B, num_logits, rows of the head).

        `rows` are ids (B, L) or embeddings (B, L, D); `mask` covers what the cache holds too.
        Raises `TypeError` for a cache that the model does not take.
        """
        with _fast_attention(self._model, rows, num_keys=mask.shape[1]):
            output = self._output(
                rows,
                cache,
                num_logits,
                attention_mask=mask,
                position_ids=positions,
                use_cache=cache is not None,
            )
        return _last(output, num_logits)

    def alone(
        self, row: Tensor, cache: object | None, num_logits: int, *, use_cache: bool
    ) -> tuple[Tensor, object | None]:
        """Logits of one row that stands alone, unpadded, and the cache that the model itself made.

        `row` is ids (L,) or embeddings (L, D) that follow what `cache` holds. The logits are at its
        last `num_logits` positions, or at all of fewer: (N, rows of the head), in float32. The
        cache is None if the model keeps none.
        """
        output = self._output(row[None], cache, num_logits, use_cache=use_cache)
        kept = (
            getattr(output, self._cache_argument, None)
            if use_cache and self._cache_argument
            else None
        )
        return _last(output, num_logits)[0], kept

    def _output(
        self, rows: Tensor, cache: object | None, num_logits: int, **options: object
    ) -> Any:
        name = "inputs_embeds" if rows.is_floating_point() else "input_ids"
        if self._keeps_logits:
            options["logits_to_keep"] = num_logits
        if cache is not None:
            if self._cache_argument is None:
                raise TypeError(f"{type(self._model).__name__}.forward takes no cache")
            options[self._cache_argument] = cache
        with fast_matmul(self._model):
            return self._model(**{name: rows}, **options)


def _last(output: Any, num_logits: int) -> Tensor:
    logits: Tensor = output.logits[:, -num_logits:].float()
    return logits


@contextmanager
def fast_matmul(model: PreTrainedModel | None = None) -> Iterator[None]:
    """Let oneDNN compute float32 products on the CPU within it, if that is faster.

    torch's setting applies to the whole process; it is restored afterwards, like the `model` whose
    forward pass it is.

    torch multiplies float32 matrices with MKL, which uses a CPU's widest vectors only on the CPUs
    of its own maker. oneDNN uses them on any CPU, but torch gives it float32 products only if the
    caller allows bfloat16 for them; a CPU without instructions for bfloat16 tiles computes them in
    float32 all the same. So bfloat16 is allowed during a pass if a probe shows that no precision
    is lost.
    """
    if not onednn_is_better():
        yield
        return
    with _through_onednn(), _contiguous_head(model):
        yield


@contextmanager
def _fast_attention(model: PreTrainedModel, rows: Tensor, *, num_keys: int) -> Iterator[None]:
    """Compute attention of few `rows` on the CPU in whole products within it, if oneDNN is used.

    torch's own kernel makes several small products for each row and head. oneDNN takes longer to
    begin one than to compute it. Whole products keep all scores, so large passes, and those that
    keep them for gradients, stay with the kernel.
    """
    num_read = rows.shape[0] * rows.shape[1]
    is_small = num_read >= MIN_READ and num_read * num_keys <= MAX_SCORES
    is_float32 = rows.device.type == "cpu" and model.dtype == torch.float32
    if torch.is_grad_enabled() or not (is_small and is_float32 and onednn_is_better()):
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


@cache
def onednn_is_better() -> bool:
    """Whether MKL is slow on this CPU and oneDNN keeps float32's precision on it."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or MKL_IS_SLOW_ON not in _cpu_maker():
        return False
    with _through_onednn():
        return all(_error(rows) < MAX_ERROR for rows in PROBED_ROWS)


def _forward_parameters(model: type) -> set[str]:
    """Names of the arguments of `forward`, also those that a subclass passes on by `**kwargs`."""
    forwards = [kind.__dict__["forward"] for kind in model.__mro__ if "forward" in kind.__dict__]
    return {name for forward in forwards for name in inspect.signature(forward).parameters}


@contextmanager
def _through_onednn() -> Iterator[None]:
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


@contextmanager
def _contiguous_head(model: PreTrainedModel | None) -> Iterator[None]:
    """Give the head contiguous rows: torch would copy its weights for each row of a slice.

    For a batch of one row too, whose slice calls itself contiguous: its strides are the batch's.
    """
    head = None if model is None else model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, torch.nn.Module):
        yield
        return
    hook = head.register_forward_pre_hook(
        lambda _, inputs: (inputs[0].clone(memory_format=torch.contiguous_format),)
    )
    try:
        yield
    finally:
        hook.remove()


def _error(num_rows: int) -> float:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(num_rows, 512, generator=generator)
    right = torch.randn(512, 512, generator=generator)
    exact = left.double() @ right.double().T
    got = torch.nn.functional.linear(left, right).double()
    return float((got - exact).abs().max() / exact.abs().max())


def _cpu_maker() -> str:
    try:
        return CPU_INFO.read_text("utf-8", "replace")
    except OSError:  # not Linux
        return platform.processor()
