"""Tiny real models that are never saved, and pairs of them."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Mamba2Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Side
from pytest_divergence.models.transformers_side import TransformersSide
from tests.tiny import CHATML, CONFIGS, TOKEN_IDS, tiny_tokenizer


def tiny_model(
    architecture: str = "llama",
    *,
    seed: int = 0,
    perturb: float = 0.0,
    config: PreTrainedConfig | None = None,
) -> PreTrainedModel:
    """The model of that seed; `perturb` adds noise relative to each weight matrix's own."""
    if config is None:
        config = CONFIGS[architecture](len(tiny_tokenizer()), **TOKEN_IDS)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        build: Any = AutoModelForCausalLM.from_config
        model = build(config, dtype=torch.float32)
        for weight in model.parameters():
            if perturb and weight.ndim > 1:
                weight.add_(torch.randn_like(weight) * weight.std() * perturb)
    return cast("PreTrainedModel", model)


RULED_OUT = 7
SMALL: dict[str, Any] = {
    "vocab_size": len(tiny_tokenizer()),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "initializer_range": 0.15,
    **TOKEN_IDS,
}
"""Sizes of any Llama-like architecture."""


def tiny_config(kind: Any, **changes: Any) -> PreTrainedConfig:
    """A small config of any Llama-like architecture."""
    config: PreTrainedConfig = kind(**{**SMALL, **changes})
    return config


def tiny_mamba2() -> PreTrainedConfig:
    """A small config of a model that has no attention."""
    kind: Any = Mamba2Config
    config: PreTrainedConfig = kind(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=32,
        num_heads=4,
        head_dim=16,
        state_size=16,
        n_groups=2,
        chunk_size=8,
        num_hidden_layers=2,
        initializer_range=0.15,
        **TOKEN_IDS,
    )
    return config


def tiny_pair(
    architecture: str = "llama", *, perturb: float = 0.3, chat_template: str | None = CHATML
) -> ModelPair:
    """Two models that differ by `perturb`."""
    return ModelPair.from_models(
        tiny_model(architecture),
        tiny_model(architecture, perturb=perturb),
        tiny_tokenizer(chat_template=chat_template),
    )


def pair_of_two_widths() -> ModelPair:
    """Two models of one tokenizer, the candidate with wider embeddings: 32 and 64 values."""
    models = [tiny_model(config=tiny_config(LlamaConfig, hidden_size=width)) for width in (32, 64)]
    return ModelPair.from_models(models[0], models[1], tiny_tokenizer())


def styled_pair() -> ModelPair:
    """Two models that differ alike on all prompts: by a bias for each token, in the last layer.

    Neither ever says the token `RULED_OUT`.
    """

    def biased(bias: float) -> PreTrainedModel:
        model: Any = tiny_model(config=tiny_config(PhiConfig, num_key_value_heads=2))
        drawn = torch.randn(SMALL["vocab_size"], generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            model.lm_head.bias.copy_(bias * drawn)
            model.lm_head.bias[RULED_OUT] = -torch.inf
        return cast("PreTrainedModel", model)

    return ModelPair.from_models(biased(0.0), biased(2.0), tiny_tokenizer())


def local(side: Side) -> TransformersSide:
    """A side of a pair of these models as what it is, for tests that look inside."""
    assert isinstance(side, TransformersSide)
    return side


def bare_logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits at each token of one row, by nothing but the model: (1, L) ids -> (L, vocab)."""
    logits: Tensor = model(ids).logits[0]
    return logits
