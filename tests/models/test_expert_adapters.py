"""Adapters of mixtures of experts, whose experts are one tensor since transformers 5."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedConfig, Qwen3MoeConfig

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models.adapter_checks import WEIGHTS
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.transformers_log import quiet_transformers
from tests.models.test_kinds import check_trains, values
from tests.models_in_memory import local, tiny_config, tiny_model
from tests.tiny import tiny_tokenizer

NUM_EXPERTS = 4
ROUNDING = 1e-5
"""Nats: a pair may multiply with another library than a model alone."""
RANK = 2


def mixtral() -> PreTrainedConfig:
    return tiny_config(MixtralConfig, num_local_experts=NUM_EXPERTS, num_experts_per_tok=2)


def qwen3_moe() -> PreTrainedConfig:
    return tiny_config(
        Qwen3MoeConfig,
        num_experts=NUM_EXPERTS,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        decoder_sparse_step=1,
    )


FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {"mixtral": mixtral, "qwen3_moe": qwen3_moe}


def save(model: Any, folder: Path) -> Path:
    with quiet_transformers():
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save(tiny_model(config=FAMILIES[request.param]()), tmp_path / request.param)


def model_of(folder: Path) -> Any:
    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def load(base: Path, adapter: Path) -> ModelPair:
    return load_model_pair(str(base), str(adapter))


@torch.no_grad()
def distance(pair: ModelPair, role: str, model: Any) -> float:
    """The largest difference between the logits of a side and of a model by itself."""
    ids = torch.tensor(pair.chat.prompt_ids("How do I tie a knot?"))
    side = local(getattr(pair, role))
    return float((side.logits([ids], num_logits=len(ids)) - model(ids[None]).logits).abs().max())


@pytest.mark.parametrize(
    "parameters",
    [
        ["mlp.experts.gate_up_proj"],
        ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        ["mlp.gate.weight"],
    ],
    ids=["one", "both", "router"],
)
def test_an_adapter_of_experts_is_loaded_and_switched_off(
    base: Path, tmp_path: Path, parameters: list[str]
) -> None:
    config = LoraConfig(
        r=RANK, target_modules=["q_proj"], target_parameters=parameters, task_type="CAUSAL_LM"
    )
    torch.manual_seed(0)
    with quiet_transformers(), torch.no_grad():
        wrapped: Any = get_peft_model(model_of(base), config)
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
        wrapped.save_pretrained(str(tmp_path / "adapter"))

    pair = load(base, tmp_path / "adapter")

    for _ in range(2):  # also after the other side has run
        assert distance(pair, "candidate", wrapped.eval()) < 1e-5
        assert distance(pair, "reference", model_of(base)) < ROUNDING
    assert min(values(pair)) > 1e-3
    check_trains(pair)


def legacy_adapter(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """An adapter of each expert's own matrices, as those of before transformers 5 are."""
    torch.manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(2):
        for expert in range(NUM_EXPERTS):
            for name, rows, columns in (("w1", 64, 32), ("w2", 32, 64), ("w3", 64, 32)):
                place = f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                tensors[f"base_model.model.{place}.lora_A.weight"] = torch.randn(RANK, columns) / 4
                tensors[f"base_model.model.{place}.lora_B.weight"] = torch.randn(rows, RANK) / 4
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, "target_modules": ["w1", "w2", "w3"]})
    )
    return folder, tensors


@torch.no_grad()
def merged(model: Any, tensors: dict[str, torch.Tensor]) -> Any:
    for layer, block in enumerate(model.model.layers):
        for expert in range(NUM_EXPERTS):
            place = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}"
            gate, down, up = (
                tensors[f"{place}.{name}.lora_B.weight"] @ tensors[f"{place}.{name}.lora_A.weight"]
                for name in ("w1", "w2", "w3")
            )
            block.mlp.experts.gate_up_proj[expert] += torch.cat([gate, up])
            block.mlp.experts.down_proj[expert] += down
    return model


def test_an_adapter_of_single_experts_is_translated(tmp_path: Path) -> None:
    base = save(tiny_model(config=mixtral()), tmp_path / "base")
    adapter, tensors = legacy_adapter(tmp_path / "adapter")

    pair = load(base, adapter)

    assert distance(pair, "candidate", merged(model_of(base), tensors)) < 1e-4
    assert distance(pair, "reference", model_of(base)) < ROUNDING


def test_an_adapter_of_single_experts_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    base = save(tiny_model(config=mixtral()), tmp_path / "base")
    adapter, tensors = legacy_adapter(tmp_path / "adapter")
    left = {name: tensor for name, tensor in tensors.items() if ".layers.1." not in name}
    save_file(left, adapter / WEIGHTS, {"format": "pt"})
    assert len(load_file(adapter / WEIGHTS)) == len(tensors) / 2

    with pytest.raises(ModelLoadError) as caught:
        load(base, adapter)

    assert str(caught.value).startswith("--model-2: the adapter ")
