"""How much memory there is, in and outside of a container, and how much models take of it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3nTextConfig,
    Mamba2Config,
)

from pytest_divergence.models.memory import host_memory, model_size, weights_bytes
from pytest_divergence.models.quantisation import is_dense
from tests.tiny import save_tiny_model

MEMINFO = "MemTotal:       24684092 kB\nMemFree:  500 kB\nMemAvailable:   20000000 kB\n"
HOST = 20_000_000 * 1024


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return root


def test_a_container_may_be_allowed_less(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/ci.slice"
    files = {
        "proc/self/cgroup": "0::/ci.slice/job\n",
        f"{group}/memory.max": "8000000000\n",
        f"{group}/memory.current": "3000000000\n",
        f"{group}/memory.stat": "anon 1\ninactive_file 1000000000\n",
        f"{group}/job/memory.max": "max\n",
        f"{group}/job/memory.current": "3000000000\n",
        f"{group}/job/memory.stat": "inactive_file 0\n",
    }
    assert host_memory(system(tmp_path, files)) == 6_000_000_000
    files[f"{group}/job/memory.max"] = "1000\n"  # full
    assert host_memory(system(tmp_path, files)) == 0
    system(tmp_path, {"proc/self/cgroup": "0::/\n"})
    assert host_memory(tmp_path) == HOST  # what can be had without swapping


def test_a_container_of_the_older_kind_too(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/job"
    files = {
        "proc/self/cgroup": "4:memory:/job\n1:cpu:/job\n0::/\n",
        f"{group}/memory.limit_in_bytes": "4000000000\n",
        f"{group}/memory.usage_in_bytes": "1500000000\n",
        f"{group}/memory.stat": "total_inactive_file 500000000\n",
    }
    assert host_memory(system(tmp_path, files)) == 3_000_000_000


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="needs a system that says how much it has")
def test_a_system_without_such_files_tells_all_that_it_has(tmp_path: Path) -> None:
    assert host_memory(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_weights_and_a_cache_take_what_loading_and_running_take(
    architecture: str, tmp_path: Path
) -> None:
    """Of fewer heads of keys; of sizes by other names; of a head that is the embedding."""
    folder = save_tiny_model(tmp_path / architecture, architecture=architecture)
    model = AutoModelForCausalLM.from_pretrained(folder)
    num_weights = sum(weight.numel() for weight in model.parameters())
    assert weights_bytes(folder, 4) == 4 * num_weights
    assert weights_bytes(folder, 2) == 2 * num_weights

    size = model_size(AutoConfig.from_pretrained(folder))
    cache = model(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    held = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert size.num_layers * size.cache_size == held / 3
    assert size.vocab_size == model.get_input_embeddings().num_embeddings
    assert size.hidden_size == model.config.hidden_size


def test_an_adapter_is_its_own_weights(tiny_models: Path) -> None:
    assert (
        0 < weights_bytes(tiny_models / "adapter", 4) < weights_bytes(tiny_models / "base", 4) / 4
    )


@pytest.mark.parametrize("max_shard_size", ["1GB", "20KB"])
def test_weights_in_another_form_beside_them_do_not_count(
    tiny_models: Path, tmp_path: Path, max_shard_size: str
) -> None:
    """Mistral's repositories hold the same weights twice; one form is loaded."""
    model = AutoModelForCausalLM.from_pretrained(tiny_models / "base")
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert len(list(tmp_path.glob("*.safetensors"))) == (1 if max_shard_size == "1GB" else 7)

    save_file({"output.weight": torch.zeros(500, 32)}, tmp_path / "consolidated.safetensors")

    assert weights_bytes(tmp_path, 4) == weights_bytes(tiny_models / "base", 4)


def test_a_state_in_place_of_a_cache_is_of_a_sensible_size() -> None:
    """Of a Mamba 2, whose state takes what the keys and values of about a prompt would."""
    size = model_size(Mamba2Config())
    state = Mamba2Config().num_heads * Mamba2Config().head_dim * Mamba2Config().state_size
    assert state / 200 < size.cache_size < state / 50


def test_where_layers_differ_the_largest_counts() -> None:
    config = Gemma3nTextConfig(
        num_hidden_layers=2, intermediate_size=[64, 256], layer_types=["full_attention"] * 2
    )
    assert model_size(config).intermediate_size == 256

    if not hasattr(transformers, "Gemma4TextConfig"):  # older versions have none
        return
    published: dict[str, Any] = {  # no single size of a head
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    assert model_size(transformers.Gemma4TextConfig(**published)).cache_size == 2 * 2 * 16


@pytest.mark.skipif(find_spec("triton") is not None, reason="the kernels are installed")
def test_without_kernels_mxfp4_takes_the_memory_of_floats_on_a_gpu_too() -> None:
    """As gpt-oss with accelerate alone."""
    config = {"quantization_config": {"quant_method": "mxfp4"}}

    assert is_dense(config, torch.device("cuda"))
