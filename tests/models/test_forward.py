"""Float32 products through the faster library: they stay float32's, and torch's setting stays."""

from __future__ import annotations

import pytest
import torch

from pytest_divergence.models import forward
from pytest_divergence.models.forward import fast_matmul, onednn_is_better
from tests.models_in_memory import local, tiny_pair

setting = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


@pytest.fixture
def before() -> str:
    precision: str = setting.fp32_precision
    return precision


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


def test_torchs_setting_is_as_before(before: str) -> None:
    with fast_matmul():
        pass

    assert setting.fp32_precision == before


def test_torchs_setting_is_as_before_after_an_error(before: str) -> None:
    with pytest.raises(ValueError, match="inside"), fast_matmul():
        raise ValueError("inside")

    assert setting.fp32_precision == before


def test_a_users_model_is_as_before() -> None:
    side = tiny_pair().candidate
    head = local(side).model.get_output_embeddings()  # type: ignore[no-untyped-call]

    with torch.no_grad():
        side.logits([torch.arange(20, 52)], num_logits=1)

    assert not head._forward_pre_hooks


def test_a_precision_that_the_user_asked_for_comes_back() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with fast_matmul():
            pass

        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_another_makers_cpu_is_left_alone(monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    monkeypatch.setattr(forward, "_cpu_maker", lambda: "vendor_id : GenuineIntel")
    onednn_is_better.cache_clear()
    try:
        with fast_matmul():
            assert setting.fp32_precision == before
    finally:
        onednn_is_better.cache_clear()


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gpt2", "gemma"])
def test_a_models_logits_do_not_move(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    side = tiny_pair(architecture).candidate
    bodies = [torch.arange(20, 52), torch.arange(30, 50)]
    with torch.no_grad():
        fast = side.logits(bodies, num_logits=8)
        monkeypatch.setattr(forward, "onednn_is_better", lambda: False)
        plain = side.logits(bodies, num_logits=8)

    assert torch.allclose(fast, plain, atol=1e-5)
