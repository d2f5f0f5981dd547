"""Weights in few bits: they are scored, and trained through where a gradient passes."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.discovery.strategies import soft_prompt
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.transformers_log import quiet_transformers
from tests.models.test_kinds import check_trains, values
from tests.models_in_memory import local


class Opaque(torch.autograd.Function):
    """A product whose backward pass is not written, as that of some kernels in few bits."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rows @ weight.T

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise NotImplementedError("no backward pass")


class OpaqueLinear(torch.nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = Opaque.apply(rows, self.weight)  # type: ignore[no-untyped-call]
        return found


@pytest.fixture
def closed_pair(tiny_models: Path) -> ModelPair:
    """A pair whose candidate passes no gradient through its first layer."""
    pair = load_model_pair(str(tiny_models / "base"), str(tiny_models / "ft"))
    model: Any = local(pair.candidate).model
    attention = model.model.layers[0].self_attn
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(attention, name, OpaqueLinear(getattr(attention, name).weight.data))
    model.hf_quantizer = object()  # what transformers gives a quantised model
    return pair


def test_a_model_that_passes_no_gradient_is_scored_only(closed_pair: ModelPair) -> None:
    assert not local(closed_pair.candidate).passes_gradients()
    assert local(closed_pair.reference).passes_gradients()
    assert min(values(closed_pair)) > 0


def test_soft_prompts_are_left_out_and_the_reason_is_said(closed_pair: ModelPair) -> None:
    said: list[str] = []

    class Context:
        round = 0

        class profile:  # noqa: N801 (an attribute)
            num_restarts = 2

        class listener:  # noqa: N801 (an attribute)
            say = said.append

    context: Any = Context()
    assert soft_prompt.SoftPromptStrategy().propose(closed_pair, context) == []
    assert said == [
        "no gradient reaches the inputs of the candidate, as in some quantised models: no soft "
        "prompts are trained, the other strategies go on"
    ]


@pytest.mark.skipif(importlib.util.find_spec("torchao") is not None, reason="torchao is there")
def test_a_missing_package_is_named(tiny_models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_models / "base", tmp_path / "int8")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "torchao"}
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(ModelLoadError) as caught:
        load_model_pair(str(tiny_models / "base"), str(folder))

    assert str(caught.value) == (
        "--model-2 is quantised with torchao, which is not installed: pip install torchao"
    )


def saved(folder: Path, target: Path, config: Any, **options: Any) -> Path:
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=config, dtype=torch.float32, **options
        )
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    return target


def test_torchao_in_eight_bits(tiny_models: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    config = TorchAoConfig(Int8WeightOnlyConfig(version=2))
    folder = saved(tiny_models / "base", tmp_path, config)

    pair = load_model_pair(str(tiny_models / "base"), str(folder))

    assert not pair.is_same_model
    assert 1e-6 < max(values(pair)) < 0.1
    assert local(pair.candidate).passes_gradients()
    check_trains(pair)


def test_bitsandbytes_in_eight_bits(tiny_models: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    folder = saved(tiny_models / "base", tmp_path, config, device_map={"": "cpu"})

    pair = load_model_pair(str(tiny_models / "base"), str(folder))

    assert 1e-6 < max(values(pair)) < 1
    assert local(pair.candidate).passes_gradients()
    check_trains(pair)
