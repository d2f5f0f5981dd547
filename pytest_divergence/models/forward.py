"""One forward pass of any causal model: padded rows in, logits out.

Knows what architectures and versions of transformers call things, which of them take what, and by
which library a CPU multiplies matrices faster. Does not know prefixes, roles or which tokens are
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

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pytest_divergence.core.errors import ModelLoadError

CACHE_ARGUMENTS = ("cache", "past_key_values")
"""What models call their key-value cache, the newest name first: transformers 5.24 renamed it."""

CPU_INFO = Path("/proc/cpuinfo")
MKL_IS_SLOW_ON = "AuthenticAMD"
"""A maker, as that file names it."""
MAX_ERROR = 1e-5
"""Of a product's entries, as a share of the largest: float32 reads 1e-6, bfloat16 4e-3."""
PROBED_ROWS = (1, 16, 256)
"""How many rows the products have on which oneDNN is tried."""


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
            padding = body.new_zeros((missing, *body.shape[1:]))
            rows.append(torch.cat([padding, body]).to(device))
            mask[index, missing:] = 1
        return Padded(torch.stack(rows), mask)


class ForwardPass:
    """A model as a function of rows, mask, positions and what was read before."""

    def __init__(self, model: PreTrainedModel, role: str) -> None:
        """Raise `ModelLoadError`, naming the role, for a model without a key-value cache."""
        self._model = model
        parameters = _forward_parameters(type(model))
        self._keeps_logits = "logits_to_keep" in parameters
        # By a name that a model merely swallows, it would keep nothing of what it has read.
        known = [name for name in CACHE_ARGUMENTS if name in parameters]
        if not known:
            raise ModelLoadError(
                f"the {role}, a {type(model).__name__}, takes no key-value cache (none "
                f"of {', '.join(CACHE_ARGUMENTS)}), without which nothing can be decoded; update "
                "transformers, or choose another model"
            )
        self._cache_argument = known[0]

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
        """
        name = "inputs_embeds" if rows.is_floating_point() else "input_ids"
        options: dict[str, object] = {"logits_to_keep": num_logits} if self._keeps_logits else {}
        options[self._cache_argument] = cache
        with fast_matmul(self._model):
            output = self._model(
                **{name: rows},
                attention_mask=mask,
                position_ids=positions,
                use_cache=cache is not None,
                **options,
            )
        logits: Tensor = output.logits[:, -num_logits:].float()
        return logits


@contextmanager
def fast_matmul(model: PreTrainedModel | None = None) -> Iterator[None]:
    """Within it, float32 products on the CPU are computed by oneDNN where that is faster.

    torch's setting is one for the process, and is as before afterwards, like the `model` whose
    forward pass it is.

    torch multiplies float32 matrices with MKL, which uses a CPU's widest vectors only on the CPUs
    of its own maker. oneDNN uses them on any, but torch hands it float32 products only where the
    caller allows bfloat16 for them; a CPU without instructions for bfloat16 tiles computes them in
    float32 all the same. So it is allowed for the length of a pass, where a probe shows that
    nothing is lost by it.
    """
    if not onednn_is_better():
        yield
        return
    with _through_onednn(), _contiguous_head(model):
        yield


@cache
def onednn_is_better() -> bool:
    """Whether this CPU is one that MKL is slow on, and oneDNN keeps float32's precision there."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or MKL_IS_SLOW_ON not in _cpu_maker():
        return False
    with _through_onednn():
        return all(_error(rows) < MAX_ERROR for rows in PROBED_ROWS)


def _forward_parameters(model: type) -> set[str]:
    """What `forward` takes, by name, also where a subclass hands on `**kwargs`."""
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
    """The last positions of a batch are a slice, for which oneDNN would copy the head for each."""
    head = None if model is None else model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not isinstance(head, torch.nn.Module):
        yield
        return
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
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
