"""How much memory there is, in and outside of a container, and how much models take of it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3nTextConfig,
    Mamba2Config,
)

from pytest_divergence.models.memory import available_memory, host_memory, model_size, weights_bytes
from pytest_divergence.models.quantisation import is_dense
from tests.tiny import CONFIGS, save_tiny_adapter, save_tiny_model

MEMINFO = "MemTotal:       24684092 kB\nMemFree:  500 kB\nMemAvailable:   20000000 kB\n"
HOST = 20_000_000 * 1024


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return root


def test_without_a_container_what_can_be_had_without_swapping_counts(tmp_path: Path) -> None:
    assert host_memory(system(tmp_path, {})) == HOST


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


def test_a_container_of_the_older_kind_too(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/job"
    files = {
        "proc/self/cgroup": "4:memory:/job\n1:cpu:/job\n0::/\n",
        f"{group}/memory.limit_in_bytes": "4000000000\n",
        f"{group}/memory.usage_in_bytes": "1500000000\n",
        f"{group}/memory.stat": "total_inactive_file 500000000\n",
    }
    assert host_memory(system(tmp_path, files)) == 3_000_000_000


def test_a_full_container_leaves_nothing(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/job"
    files = {
        "proc/self/cgroup": "0::/job\n",
        f"{group}/memory.max": "1000\n",
        f"{group}/memory.current": "2000\n",
        f"{group}/memory.stat": "inactive_file 0\n",
    }
    assert host_memory(system(tmp_path, files)) == 0


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="needs a system that says how much it has")
def test_a_system_without_such_files_tells_all_that_it_has(tmp_path: Path) -> None:
    assert host_memory(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_cpu_has_the_hosts_memory() -> None:
    free = available_memory("cpu")
    assert free is None or 10_000_000 < free < 10**16


@pytest.mark.parametrize("architecture", CONFIGS)
def test_weights_are_as_many_bytes_as_loading_takes(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / architecture, architecture=architecture)
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        loaded = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        assert weights_bytes(folder, dtype.itemsize) == loaded


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


def test_a_state_in_place_of_a_cache_is_of_a_sensible_size() -> None:
    """Of a Mamba 2, whose state takes what the keys and values of about a prompt would."""
    size = model_size(Mamba2Config())
    state = Mamba2Config().num_heads * Mamba2Config().head_dim * Mamba2Config().state_size
    assert state / 200 < size.cache_size < state / 50


def test_an_adapter_is_its_own_weights(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base")
    adapter = save_tiny_adapter(base, tmp_path / "adapter")
    assert 0 < weights_bytes(adapter, 4) < weights_bytes(base, 4) / 4


def test_files_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(SafetensorError):
        weights_bytes(tmp_path, 4)


def test_where_layers_differ_in_width_the_widest_counts() -> None:
    config = Gemma3nTextConfig(
        num_hidden_layers=2, intermediate_size=[64, 256], layer_types=["full_attention"] * 2
    )

    assert model_size(config).intermediate_size == 256


@pytest.mark.skipif(
    not hasattr(transformers, "Gemma4TextConfig"), reason="older versions have no Gemma 4"
)
def test_where_layers_differ_in_heads_the_largest_cache_counts() -> None:
    """As of Gemma 4, of which transformers gives no single size of a head."""
    published: dict[str, Any] = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    config = transformers.Gemma4TextConfig(**published)

    assert model_size(config).cache_size == 2 * 2 * 16


@pytest.mark.skipif(find_spec("triton") is not None, reason="the kernels are installed")
def test_without_kernels_mxfp4_takes_the_memory_of_floats_on_a_gpu_too() -> None:
    """As gpt-oss with accelerate alone."""
    config = {"quantization_config": {"quant_method": "mxfp4"}}

    assert is_dense(config, torch.device("cuda"))
