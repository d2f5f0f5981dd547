"""Float32 products through the faster library: they stay float32's, and torch's setting stays."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_divergence.models import forward
from pytest_divergence.models.forward import fast_matmul, onednn_is_better
from pytest_divergence.models.side import Side
from tests.models_in_memory import local, tiny_pair

setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


def test_products_keep_the_precision_of_float32() -> None:
    left, right = torch.randn(64, 576), torch.randn(576, 1536)
    exact = left.double() @ right.double()

    with fast_matmul():
        product = left @ right

    assert (product.double() - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("rows", forward.PROBED_ROWS)
def test_a_product_in_bfloat16_would_be_noticed(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    linear = torch.nn.functional.linear
    monkeypatch.setattr(
        torch.nn.functional,
        "linear",
        lambda left, right: linear(left.bfloat16(), right.bfloat16()).float(),
    )

    assert forward._error(rows) > 100 * forward.MAX_ERROR


@pytest.mark.parametrize("asked", ["highest", "high"])
def test_torchs_setting_is_as_before(asked: str) -> None:
    torch.set_float32_matmul_precision(asked)
    try:
        before = setting.fp32_precision
        with pytest.raises(ValueError, match="inside"), fast_matmul():
            raise ValueError("inside")

        assert torch.get_float32_matmul_precision() == asked
        assert setting.fp32_precision == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_users_model_is_as_before() -> None:
    side = tiny_pair().candidate
    head = local(side).model.get_output_embeddings()  # type: ignore[no-untyped-call]

    with torch.no_grad():
        side.logits([torch.arange(20, 52)], num_logits=1)

    assert not head._forward_pre_hooks


def test_a_models_logits_do_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    side = tiny_pair().candidate
    bodies = [torch.arange(20, 52), torch.arange(30, 50)]
    with torch.no_grad():
        fast = side.logits(bodies, num_logits=8)
        monkeypatch.setattr(forward, "onednn_is_better", lambda: False)
        plain = side.logits(bodies, num_logits=8)

    assert torch.allclose(fast, plain, atol=1e-5)


class Operations(TorchDispatchMode):
    """Collects the names of operations while it is on, and the last dimensions of what they make.

    Copies that an operation makes by itself are not among them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.made: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        self.names.append(func.__name__.split(".")[0])
        if isinstance(made, Tensor) and made.dim():
            self.made.append((self.names[-1], made.shape[-1]))
        return made


def operations(side: Side, bodies: Sequence[Tensor]) -> Operations:
    found = Operations()
    with torch.no_grad(), found:
        side.logits(bodies, num_logits=1)
    return found


# Each side is made, and tried out, before: on a CPU that multiplies bfloat16, its numbers
# would differ then.
KERNEL = "_scaled_dot_product_flash_attention_for_cpu"


def test_a_small_pass_computes_attention_in_whole_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    side = tiny_pair().candidate
    monkeypatch.setattr(forward, "onednn_is_better", lambda: True)
    short = [torch.arange(20, 36)] * 2

    assert "bmm" in operations(side, short).names
    assert KERNEL not in operations(side, short).names


def test_a_large_pass_and_one_with_gradients_keep_no_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    side = tiny_pair().candidate
    monkeypatch.setattr(forward, "onednn_is_better", lambda: True)
    long = [torch.arange(20, 70).repeat(5)] * 4

    assert KERNEL in operations(side, long).names
    with_gradients = Operations()
    with with_gradients:
        side.logits([torch.arange(20, 36)] * 2, num_logits=1)
    assert KERNEL in with_gradients.names


def test_another_makers_cpu_keeps_torchs_products_and_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = setting.fp32_precision
    monkeypatch.setattr(forward, "_cpu_maker", lambda: "vendor_id : GenuineIntel")
    onednn_is_better.cache_clear()
    try:
        with fast_matmul():
            assert setting.fp32_precision == before
        assert KERNEL in operations(tiny_pair().candidate, [torch.arange(20, 36)] * 2).names
    finally:
        onednn_is_better.cache_clear()


def test_the_head_is_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product for each row of a batch copies the head's weights for it."""
    side = tiny_pair().candidate
    monkeypatch.setattr(forward, "onednn_is_better", lambda: True)

    made = operations(side, [torch.arange(20, 36)] * 2).made

    assert ("mm", side.num_outcomes) in made
    assert ("bmm", side.num_outcomes) not in made
