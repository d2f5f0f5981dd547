"""Divergences piece by piece: identities, then equality with what is made all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import CohereConfig, Gemma2Config, GraniteConfig, LlamaForCausalLM

from pytest_divergence.core.errors import NonFiniteLogitsError
from pytest_divergence.discovery.soft_prompts.objectives import (
    SoftPromptObjective,
    initial_parameter,
)
from pytest_divergence.discovery.soft_prompts.training import training_rows
from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
from pytest_divergence.models import output_head
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import LazyLogits
from pytest_divergence.models.transformers_log import quiet_transformers
from pytest_divergence.scoring import teacher_forcing
from pytest_divergence.scoring.cheap_scores import prompt_nlls
from pytest_divergence.scoring.divergences import forward_kl, js, reverse_kl, symmetric_kl
from pytest_divergence.scoring.scorer import score_prompts
from pytest_divergence.scoring.teacher_forcing import check_finite, measured
from tests.models_in_memory import local, tiny_config, tiny_model, tiny_pair
from tests.tiny import tiny_tokenizer

Formula = Callable[[Tensor, Tensor], Tensor]
FORMULAS: list[Formula] = [forward_kl, reverse_kl, symmetric_kl, js]
TEXTS = ["How do I tie a knot?", "Write a poem.", "2 + 2 ="]
VOCAB, HIDDEN, NUM_POSITIONS = 50, 6, 11
EXACT = 1e-6


def gemma2_pair() -> ModelPair:
    """With a cap low enough to bend its logits."""
    return made_pair(tiny_config(Gemma2Config, final_logit_softcapping=2.0))


def made_pair(config: Any) -> ModelPair:
    models = tiny_model(config=config), tiny_model(config=config, perturb=0.3)
    return ModelPair.from_models(*models, tiny_tokenizer())


def head_adapter_pair() -> ModelPair:
    """One copy of the weights, and an adapter that changes the output head too."""
    base = tiny_model()
    torch.manual_seed(0)
    with quiet_transformers(), torch.no_grad():
        wrapped = get_peft_model(
            base, LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
        )
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
    return ModelPair.from_models(base, wrapped, tiny_tokenizer())


PAIRS: dict[str, Callable[[], ModelPair]] = {
    "gpt_neox": lambda: tiny_pair("gpt_neox"),
    "gemma2": gemma2_pair,
    "adapter": head_adapter_pair,
}


@contextmanager
def in_pieces(monkeypatch: pytest.MonkeyPatch, length: int = 3) -> Iterator[None]:
    """Within it no logits are made at once, and `length` positions of a tiny model at a time."""
    with monkeypatch.context() as patch:
        patch.setattr(output_head, "WHOLE_BYTES", 0)
        patch.setattr(teacher_forcing, "PIECE_BYTES", length * 4 * len(tiny_tokenizer()))
        yield


def two_heads(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, and the weights of two heads."""
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(NUM_POSITIONS, HIDDEN, generator=draw, dtype=dtype, requires_grad=True)
    ours, theirs = torch.randn(2, VOCAB, HIDDEN, generator=draw, dtype=dtype)
    return states, ours, theirs


def late(states: Tensor, weight: Tensor, lengths: list[int] | None = None) -> LazyLogits:
    """Positions whose logits are made when they are asked for; `lengths` notes how many."""

    def to_logits(some: Tensor) -> Tensor:
        if lengths is not None:
            lengths.append(len(some))
        return some @ weight.T

    return LazyLogits(states, VOCAB, to_logits)


def measure_with(formula: Formula) -> Callable[..., Tensor]:
    return lambda _, reference, candidate: formula(reference, candidate)


# Identities


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_model_against_itself_reads_zero_and_has_no_gradient(
    formula: Formula, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_forcing, "PIECE_BYTES", 3 * 4 * VOCAB)
    states, weight, _ = two_heads()

    values = measured(measure_with(formula), late(states, weight), late(states, weight))
    values.sum().backward()  # type: ignore[no-untyped-call]

    assert values.abs().max() < 1e-12
    assert states.grad is not None
    assert states.grad.abs().max() < 1e-12


def test_the_gradient_is_that_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """d KL(p || q) / dz_q = q - p and d KL / dz_p = p (ln p - ln q - KL), through each head."""
    monkeypatch.setattr(teacher_forcing, "PIECE_BYTES", 4 * 4 * VOCAB)
    states, ours, theirs = two_heads()

    values = measured(measure_with(forward_kl), late(states, ours), late(states, theirs))
    values.sum().backward()  # type: ignore[no-untyped-call]

    with torch.no_grad():
        log_p, log_q = (states @ ours.T).log_softmax(-1), (states @ theirs.T).log_softmax(-1)
        p, q = log_p.exp(), log_q.exp()
        by_p = p * (log_p - log_q - values.detach()[:, None])
        expected = by_p @ ours + (q - p) @ theirs
    assert states.grad is not None
    assert torch.allclose(states.grad, expected, rtol=0, atol=1e-12)


def test_a_piece_is_as_long_as_its_budget_and_made_twice_for_a_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teacher_forcing, "PIECE_BYTES", 4 * 4 * VOCAB + 1)
    states, ours, theirs = two_heads()
    lengths: list[int] = []

    values = measured(measure_with(js), late(states, ours, lengths), late(states, theirs))
    assert lengths == [4, 4, 3]
    values.sum().backward()  # type: ignore[no-untyped-call]
    assert lengths == [4, 4, 3, 3, 4, 4]


@pytest.mark.parametrize("length", [1, 3, 12])
def test_pieces_of_any_length_read_the_same(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside a model whose logits are there."""
    monkeypatch.setattr(teacher_forcing, "PIECE_BYTES", length * 4 * VOCAB)
    states, ours, theirs = two_heads()
    whole = symmetric_kl(states @ ours.T, states @ theirs.T)

    known = LazyLogits((states @ ours.T).detach(), VOCAB)

    for first in (late(states, ours), known):
        values = measured(measure_with(symmetric_kl), first, late(states, theirs))
        assert torch.allclose(values, whole, rtol=0, atol=1e-12)


# Against the plain path, on models


@pytest.mark.parametrize("name", ["gpt_neox", "gemma2", "adapter"])
def test_scores_are_those_of_the_plain_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = PAIRS[name]()
    plain = score_prompts(pair, TEXTS, num_continuations=2, max_new_tokens=9)
    nlls = prompt_nlls(pair, pair.candidate, TEXTS)

    with in_pieces(monkeypatch):
        again = score_prompts(
            pair, TEXTS, continuations=[one.continuations for one in plain], max_new_tokens=9
        )
        nlls_again = prompt_nlls(pair, pair.candidate, TEXTS)

    assert nlls_again == pytest.approx(nlls, rel=EXACT, abs=EXACT)
    for ours, theirs in zip(again, plain, strict=True):
        for field in ("value", "forward", "reverse", "js", "sd", "max_token"):
            made, expected = (getattr(one.measurement, field) for one in (ours, theirs))
            assert made == pytest.approx(expected, rel=EXACT, abs=EXACT), field
        assert ours.same_top_share == theirs.same_top_share
        assert ours.log_ratios == pytest.approx(theirs.log_ratios, abs=5 * EXACT)


OBJECTIVES = {
    "first_token": TrainingConfig(num_virtual_tokens=3),
    "continuation": TrainingConfig(num_virtual_tokens=3, objective="continuation", metric="js"),
    "log_ratio": TrainingConfig(
        num_virtual_tokens=3, objective="log_ratio", target_ids=(20, 30, 40, 50, 60)
    ),
    "likelihood": TrainingConfig(num_virtual_tokens=3, objective="likelihood"),
}


def trained_for(pair: ModelPair, config: TrainingConfig) -> tuple[Tensor, Tensor]:
    """The objective of each text, and its gradient."""
    parameter = initial_parameter(pair, config).requires_grad_(True)
    rows = training_rows(pair, TEXTS, 64)
    values = SoftPromptObjective(pair, config, parameter).values(rows)
    values.mean().backward()  # type: ignore[no-untyped-call]
    assert parameter.grad is not None
    return values.detach(), parameter.grad


@pytest.mark.parametrize(
    ("name", "objective"),
    [("gemma2", "continuation"), *[("adapter", objective) for objective in OBJECTIVES]],
)
def test_objectives_and_gradients_are_those_of_the_plain_path(
    name: str, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, config = PAIRS[name](), OBJECTIVES[objective]
    values, gradient = trained_for(pair, config)

    with in_pieces(monkeypatch):
        values_again, gradient_again = trained_for(pair, config)

    assert gradient.abs().max() > 1e-4
    assert torch.allclose(values_again, values, rtol=EXACT, atol=EXACT)
    assert torch.allclose(
        gradient_again, gradient, rtol=0, atol=EXACT * float(gradient.abs().max())
    )


# Heads


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(CohereConfig, logit_scale=0.25),
        tiny_config(GraniteConfig, logits_scaling=4.0),
    ],
    ids=["scaled", "divided"],
)
def test_what_an_architecture_does_to_its_logits_is_done(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = made_pair(config)
    rows = [torch.arange(20, 32), torch.arange(40, 45)]
    with torch.no_grad():
        plain = pair.candidate.logits(rows, num_logits=5).flatten(0, 1)
        with in_pieces(monkeypatch):
            positions = pair.candidate.positions(rows, num_positions=5)

        assert not positions.is_whole
        assert torch.allclose(positions.logits(0, 10), plain, rtol=0, atol=EXACT)
        assert torch.equal(positions.logits(3, 7), positions.logits(0, 10)[3:7])


class Shifted(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    """Does something of its own to its logits."""

    def forward(self, *args: Any, **options: Any) -> Any:
        output = super().forward(*args, **options)
        shift = torch.linspace(0, 1, output.logits.shape[-1])
        output.logits = output.logits + shift.to(output.logits)
        return output


def test_a_head_that_cannot_be_told_apart_is_measured_the_plain_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shifted = Shifted(tiny_model().config)  # type: ignore[arg-type]
    pair = ModelPair.from_models(tiny_model(), shifted, tiny_tokenizer())
    plain = score_prompts(pair, TEXTS, num_continuations=1, max_new_tokens=6)

    with in_pieces(monkeypatch):
        again = score_prompts(pair, TEXTS, continuations=[one.continuations for one in plain])
        positions = pair.candidate.positions([torch.arange(20, 25)], num_positions=5)

    assert positions.is_whole
    for ours, theirs in zip(again, plain, strict=True):
        assert ours.measurement.value == pytest.approx(theirs.measurement.value, abs=EXACT)


def test_rounding_to_bfloat16_hides_no_other_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight units in the last place of a logit of 30 are 1 nat and more."""
    shifted = Shifted(tiny_model().config)  # type: ignore[arg-type]
    pair = in_bfloat16(ModelPair.from_models(tiny_model(), shifted, tiny_tokenizer()))
    rows = [torch.arange(20, 32)]
    for side in pair.sides:
        any_model: Any = local(side).model
        with torch.no_grad():
            any_model.lm_head.weight *= 30 / side.logits(rows, num_logits=12).abs().max()

    with in_pieces(monkeypatch), torch.no_grad():
        own, other = (side.positions(rows, num_positions=12) for side in pair.sides)

    assert not own.is_whole
    assert other.is_whole


def test_logits_that_are_no_numbers_name_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()
    given = [
        one.continuations
        for one in score_prompts(pair, TEXTS, num_continuations=1, max_new_tokens=6)
    ]
    any_model: Any = local(pair.candidate).model
    with torch.no_grad():
        any_model.lm_head.weight[5] = torch.nan

    with in_pieces(monkeypatch), pytest.raises(NonFiniteLogitsError, match=r"^the candidate "):
        score_prompts(pair, TEXTS, continuations=given)


def test_of_what_is_not_finite_minus_infinity_alone_is_a_logit() -> None:
    """It rules a token out."""
    side = tiny_pair().candidate

    check_finite(torch.tensor([0.0, -torch.inf]), side)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(NonFiniteLogitsError, match=r"^the candidate "):
            check_finite(torch.tensor([0.0, bad]), side)


# Precision


def in_bfloat16(pair: ModelPair) -> ModelPair:
    for side in pair.sides:
        any_model: Any = local(side).model
        any_model.to(torch.bfloat16)
    return pair


@pytest.mark.parametrize("is_late", [False, True], ids=["whole", "pieces"])
def test_weights_in_bfloat16_are_measured_in_float32(
    is_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64 on the same logits: arithmetic in bfloat16 is wrong by 0.03 here."""
    pair = in_bfloat16(tiny_pair(perturb=0.02))
    if is_late:
        monkeypatch.setattr(output_head, "WHOLE_BYTES", 0)
    rows = [torch.arange(20, 32), torch.arange(40, 52)]
    with torch.no_grad():
        both = [side.positions(rows, num_positions=12) for side in pair.sides]
        logits = [one.logits(0, 24) for one in both]
        exact = symmetric_kl(logits[0].double(), logits[1].double())

        values = measured(measure_with(symmetric_kl), *both)

    assert {one.is_whole for one in both} == {not is_late}
    assert values.dtype == torch.float32
    assert 0 < exact.max() < 0.01
    assert torch.allclose(values.double(), exact, rtol=1e-4, atol=EXACT)


def test_a_soft_prompt_is_trained_in_float32_on_weights_in_bfloat16() -> None:
    values, gradient = trained_for(in_bfloat16(tiny_pair()), OBJECTIVES["continuation"])

    assert values.dtype == gradient.dtype == torch.float32
