"""Layers that are computed twice give the gradients of layers that are kept."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import OPTConfig

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.discovery.soft_prompts.objectives import (
    SoftPromptObjective,
    initial_parameter,
)
from pytest_divergence.discovery.soft_prompts.training import training_rows
from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
from pytest_divergence.models.checkpointing import checkpointed_layers
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from tests.models_in_memory import local, tiny_model, tiny_pair
from tests.tiny import TOKEN_IDS, tiny_tokenizer

TEXTS = ["How do I tie a knot?", "Write a poem.", "2 + 2 ="]
KEPT = TrainingConfig(num_virtual_tokens=3)
OBJECTIVES = [
    KEPT,
    replace(KEPT, objective="continuation"),
    replace(KEPT, objective="log_ratio", target_ids=(20, 30, 40)),
    replace(KEPT, objective="likelihood"),
    replace(KEPT, kind="simplex"),
]


def opt_pair() -> ModelPair:
    """Its layers drop out by themselves in training mode."""
    config = OPTConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        dropout=0.5,
        init_std=0.15,
        **cast(Any, TOKEN_IDS),
    )
    models = tiny_model(config=config), tiny_model(config=config, perturb=0.3)
    return ModelPair.from_models(*models, tiny_tokenizer())


def pair_of(name: str, tiny_models: Path) -> ModelPair:
    if name == "adapter":
        return load_model_pair(str(tiny_models / "base"), str(tiny_models / "adapter"))
    if name == "opt":
        return opt_pair()
    return tiny_pair(name)


def objective_of(pair: ModelPair, config: TrainingConfig) -> tuple[SoftPromptObjective, Tensor]:
    parameter = initial_parameter(pair, config).requires_grad_(True)
    return SoftPromptObjective(pair, config, parameter), parameter


def gradient_of(pair: ModelPair, config: TrainingConfig) -> tuple[Tensor, Tensor]:
    objective, parameter = objective_of(pair, config)
    values = objective.values(training_rows(pair, TEXTS, 64))
    values.mean().backward()  # type: ignore[no-untyped-call]
    assert parameter.grad is not None
    return values.detach(), parameter.grad


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *[("adapter", config) for config in OBJECTIVES],
        *[(name, OBJECTIVES[1]) for name in ("gpt2", "opt")],
    ],
    ids=lambda one: one if isinstance(one, str) else f"{one.objective}-{one.kind}",
)
def test_gradients_are_those_without_it(
    name: str, config: TrainingConfig, tiny_models: Path
) -> None:
    pair = pair_of(name, tiny_models)
    values, gradient = gradient_of(pair, config)

    again, recomputed = gradient_of(pair, replace(config, gradient_checkpointing=True))

    largest = float(gradient.abs().max())
    assert largest > 0
    assert torch.allclose(again, values, rtol=1e-6, atol=1e-6)
    assert torch.allclose(recomputed, gradient, rtol=0, atol=1e-6 * max(1.0, largest))


def saved_bytes(pair: ModelPair, config: TrainingConfig) -> int:
    """What a forward pass keeps for its backward pass."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    objective, _ = objective_of(pair, config)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        objective.values(training_rows(pair, TEXTS * 5, 64))
    return sum(sizes.values())


def test_less_is_kept(tiny_models: Path) -> None:
    pair = pair_of("adapter", tiny_models)

    less = saved_bytes(pair, replace(KEPT, gradient_checkpointing=True))

    assert less < 0.5 * saved_bytes(pair, KEPT)


def test_the_models_layers_are_their_own_again() -> None:
    pair = tiny_pair()
    gradient_of(pair, replace(KEPT, gradient_checkpointing=True))

    for side in pair.sides:
        assert not any("forward" in vars(module) for module in local(side).model.modules())


def test_a_model_without_such_layers_is_refused() -> None:
    bare = torch.nn.Module()

    with (
        pytest.raises(SettingsError) as caught,
        checkpointed_layers(bare, nullcontext, role="reference"),
    ):
        pass
    assert str(caught.value) == (
        "gradient_checkpointing=True: the reference, a Module, has no layers that transformers can "
        "recompute; leave it out"
    )
