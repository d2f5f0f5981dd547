"""The formulas: identities first, then an independent computation."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr
from torch import Tensor
from torch.nn.functional import kl_div

from pytest_divergence.scoring.divergences import (
    forward_kl,
    js,
    log_probs,
    reverse_kl,
    symmetric_kl,
)

Formula = Callable[[Tensor, Tensor], Tensor]
ALL = [forward_kl, reverse_kl, symmetric_kl, js]
ROUNDING = 1e-5

seeds = st.integers(0, 2**32)
sizes = st.sampled_from([2, 7, 300])
spreads = st.sampled_from([0.01, 1.0, 30.0])


def two(seed: int, size: int, spread: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, 3, size, generator=generator) * spread
    return first, second


@pytest.mark.parametrize("formula", ALL)
@given(seed=seeds, size=sizes, spread=spreads)
@settings(max_examples=30, deadline=None)
def test_identical_logits_have_zero_divergence(
    formula: Formula, seed: int, size: int, spread: float
) -> None:
    logits, _ = two(seed, size, spread)

    assert formula(logits, logits.clone()).abs().max() <= 1e-7


@pytest.mark.parametrize("formula", ALL)
@given(seed=seeds, size=sizes, spread=spreads)
@settings(max_examples=30, deadline=None)
def test_a_divergence_is_never_negative_beyond_rounding(
    formula: Formula, seed: int, size: int, spread: float
) -> None:
    logits, noise = two(seed, size, spread)

    assert (formula(logits, noise) >= -1e-6).all()
    assert (formula(logits, logits + 1e-4 * noise.sign()) >= -1e-6).all()


@pytest.mark.parametrize("formula", ALL)
@given(seed=seeds, size=sizes, constant=st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_a_constant_added_to_the_logits_changes_nothing(
    formula: Formula, seed: int, size: int, constant: float
) -> None:
    reference, candidate = two(seed, size, 1.0)

    shifted = formula(reference + constant, candidate - 2 * constant)

    assert torch.allclose(shifted, formula(reference, candidate), atol=1e-4, rtol=1e-3)


def test_two_tokens_by_hand() -> None:
    reference = torch.tensor([0.5, 0.5]).log()
    candidate = torch.tensor([0.25, 0.75]).log()
    forward = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    reverse = 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)
    mixture = 0.375, 0.625
    half = 0.5 * math.log(0.5 / mixture[0]) + 0.5 * math.log(0.5 / mixture[1])
    other_half = 0.25 * math.log(0.25 / mixture[0]) + 0.75 * math.log(0.75 / mixture[1])

    assert float(forward_kl(reference, candidate)) == pytest.approx(forward, abs=1e-6)
    assert float(reverse_kl(reference, candidate)) == pytest.approx(reverse, abs=1e-6)
    assert float(symmetric_kl(reference, candidate)) == pytest.approx(
        (forward + reverse) / 2, abs=1e-6
    )
    assert float(js(reference, candidate)) == pytest.approx((half + other_half) / 2, abs=1e-6)


@given(seed=seeds, size=sizes, spread=st.sampled_from([0.1, 1.0, 5.0]))
@settings(max_examples=30, deadline=None)
def test_kl_agrees_with_scipy_and_torch(seed: int, size: int, spread: float) -> None:
    reference, candidate = two(seed, size, spread)
    p, q = (torch.softmax(logits.double(), -1).numpy() for logits in (reference, candidate))
    by_scipy = torch.from_numpy(rel_entr(p, q).sum(-1)).float()
    by_torch = kl_div(log_probs(candidate), log_probs(reference), reduction="none", log_target=True)

    assert torch.allclose(forward_kl(reference, candidate), by_scipy, atol=ROUNDING, rtol=ROUNDING)
    assert torch.allclose(forward_kl(reference, candidate), by_torch.sum(-1), atol=ROUNDING)


@given(seed=seeds, size=sizes, spread=spreads)
@settings(max_examples=30, deadline=None)
def test_js_is_symmetric_and_at_most_ln_2(seed: int, size: int, spread: float) -> None:
    reference, candidate = two(seed, size, spread)

    value = js(reference, candidate)

    assert torch.allclose(value, js(candidate, reference), atol=1e-6)
    assert (value <= math.log(2) + 1e-6).all()
    disjoint = torch.tensor([100.0, -100.0])
    assert float(js(disjoint, -disjoint)) == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("formula", ALL)
def test_a_token_that_both_models_rule_out_contributes_nothing(formula: Formula) -> None:
    reference, candidate = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.3, 0.0, 0.5])
    ruled_out = torch.tensor([-torch.inf])

    value = formula(torch.cat([reference, ruled_out]), torch.cat([candidate, ruled_out]))

    assert float(value) == pytest.approx(float(formula(reference, candidate)), abs=1e-6)


def test_a_token_that_only_the_candidate_rules_out_is_an_infinite_forward_kl() -> None:
    reference, candidate = torch.tensor([0.0, 0.0]), torch.tensor([0.0, -torch.inf])

    assert float(forward_kl(reference, candidate)) == math.inf
    assert float(reverse_kl(reference, candidate)) == pytest.approx(math.log(2))
    assert math.isfinite(float(js(reference, candidate)))


def test_ruled_out_tokens_pass_no_nan_to_the_gradient() -> None:
    reference = torch.tensor([0.3, -1.0, -torch.inf], requires_grad=True)
    candidate = torch.tensor([1.3, 0.0, -torch.inf], requires_grad=True)

    symmetric_kl(reference, candidate).backward()  # type: ignore[no-untyped-call]

    for logits in (reference, candidate):
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("formula", ALL)
def test_half_precision_logits_are_upcast_first(formula: Formula, dtype: torch.dtype) -> None:
    reference, candidate = (logits.to(dtype) for logits in two(seed=3, size=5_000, spread=0.02))

    value = formula(reference, candidate)

    assert value.dtype == torch.float32
    assert torch.equal(value, formula(reference.float(), candidate.float()))
    assert (value >= 0).all()  # arithmetic in bfloat16 reads down to -0.03 here
