"""Matrix products in float32 by the faster of torch's two libraries for a CPU.

torch multiplies float32 matrices with MKL, which uses a CPU's widest vectors only on the CPUs of
its own maker. oneDNN uses them on any, but torch hands it float32 products only where the caller
allows bfloat16 for them; a CPU without instructions for bfloat16 tiles computes them in float32 all
the same. So it is allowed for the length of a forward or backward pass, where a probe shows that
nothing is lost by it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from transformers import PreTrainedModel

CPU_INFO = Path("/proc/cpuinfo")
MKL_IS_SLOW_ON = "AuthenticAMD"
MAX_ERROR = 1e-5
"""Of a product's entries, as a share of the largest: float32 reads 1e-6, bfloat16 4e-3."""
PROBED_ROWS = (1, 16, 256)


@contextmanager
def fast_products(model: PreTrainedModel | None = None) -> Iterator[None]:
    """Within it, float32 products on the CPU are computed by oneDNN where that is faster.

    torch's setting is one for the process, and is as before afterwards, like the `model` whose
    forward pass it is.
    """
    if not onednn_is_better():
        yield
        return
    with _through_onednn(), _contiguous_head(model):
        yield


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


@cache
def onednn_is_better() -> bool:
    """Whether this CPU is one that MKL is slow on, and oneDNN keeps float32's precision there."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or MKL_IS_SLOW_ON not in _cpu_maker():
        return False
    with _through_onednn():
        return all(_error(rows) < MAX_ERROR for rows in PROBED_ROWS)


@contextmanager
def _through_onednn() -> Iterator[None]:
    setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


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
