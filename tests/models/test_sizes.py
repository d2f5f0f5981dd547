"""The sizes of real models, read from their files, are those that loading them shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM

from pytest_divergence.models.memory import model_size, weights_bytes
from tests.tiny import CONFIGS, save_tiny_adapter, save_tiny_model


@pytest.mark.parametrize("architecture", CONFIGS)
def test_weights_are_as_many_bytes_as_loading_takes(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / architecture, architecture=architecture)
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        loaded = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        assert weights_bytes(folder, dtype.itemsize) == loaded


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_cache_holds_as_many_numbers_a_token_as_the_sizes_say(
    architecture: str, tmp_path: Path
) -> None:
    folder = save_tiny_model(tmp_path / architecture, architecture=architecture)
    size = model_size(AutoConfig.from_pretrained(folder))
    model = AutoModelForCausalLM.from_pretrained(folder)
    cache = model(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    held = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert size.num_layers * size.cache_size == held / 3
    assert size.vocab_size == model.get_input_embeddings().num_embeddings
    assert size.hidden_size == model.config.hidden_size


def test_an_adapter_is_its_own_weights(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base")
    adapter = save_tiny_adapter(base, tmp_path / "adapter")
    assert 0 < weights_bytes(adapter, 4) < weights_bytes(base, 4) / 4


def test_files_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(SafetensorError):
        weights_bytes(tmp_path, 4)
