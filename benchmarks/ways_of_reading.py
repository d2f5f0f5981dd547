"""Seconds of each way to read rows, against plain forward passes of the same model.

python benchmarks/ways_of_reading.py

One family for each way that `pytest_divergence.models.self_check` chooses. Eight prompts are scored
with 16 new tokens a model, on pairs of four layers of 256; the best of two turns counts.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BartConfig,
    JambaConfig,
    LlamaConfig,
    MambaConfig,
    OpenAIGPTConfig,
    PreTrainedConfig,
    Qwen3NextConfig,
)

sys.path.insert(0, str(Path(__file__).parents[1]))

from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, shipped_prompts
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.row_side import RowSide
from pytest_divergence.scoring.scorer import score_prompts
from tests.models.test_self_check import VOCABULARY
from tests.models_in_memory import local, tiny_config, tiny_model
from tests.tiny import tiny_tokenizer

NUM_TURNS = 2
SIZE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "initializer_range": 0.05,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
FAMILIES: dict[str, PreTrainedConfig] = {
    "Llama": tiny_config(LlamaConfig, **SIZE),
    "Qwen3-Next": tiny_config(
        Qwen3NextConfig,
        **SIZE,
        **EXPERTS,
        layer_types=[*["linear_attention"] * 3, "full_attention"],
        linear_num_key_heads=4,
        linear_num_value_heads=4,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        moe_intermediate_size=512,
        shared_expert_intermediate_size=512,
    ),
    "Jamba": tiny_config(
        JambaConfig,
        **SIZE,
        num_experts=4,
        attn_layer_period=3,
        attn_layer_offset=2,
        expert_layer_period=2,
    ),
    "Mamba": MambaConfig(hidden_size=256, num_hidden_layers=4, **VOCABULARY),
    "BART": BartConfig(
        d_model=256,
        decoder_layers=4,
        decoder_attention_heads=4,
        decoder_ffn_dim=512,
        init_std=0.05,
        is_decoder=True,
        is_encoder_decoder=False,
        **VOCABULARY,
    ),
    "GPT-1": OpenAIGPTConfig(n_embd=256, n_layer=4, n_head=4, initializer_range=0.05, **VOCABULARY),
}


def main() -> None:
    """Print a line for each family."""
    torch.set_num_threads(1)
    prompts = shipped_prompts(SHIPPED_CONTROLS, 8)
    for name, config in FAMILIES.items():
        models = tiny_model(config=config), tiny_model(config=config, perturb=0.1)
        pair = ModelPair.from_models(*models, tiny_tokenizer())
        reference, candidate = (RowSide.of(local(side), keeps_cache=False) for side in pair.sides)
        plain = replace(pair, reference=reference, candidate=candidate)
        seconds, value = scored(pair, prompts)
        plain_seconds, plain_value = scored(plain, prompts)
        print(
            f"{name}: {local(pair.reference).reading}, {seconds / plain_seconds:.2f} of "
            f"{plain_seconds:.2f} s, KL {abs(value - plain_value):.0e} apart",
            flush=True,
        )


def scored(pair: ModelPair, prompts: list[str]) -> tuple[float, float]:
    """Return the CPU seconds of the best turn, and the first prompt's KL."""
    turns = []
    for _ in range(NUM_TURNS):
        started = time.process_time()
        with pair.reuse_prompts():
            found = score_prompts(pair, prompts, num_continuations=1, max_new_tokens=16)
        turns.append(time.process_time() - started)
    return min(turns), found[0].measurement.value


if __name__ == "__main__":
    main()
