"""Write a PEFT adapter of the demo model as a GGUF file, which llama.cpp's server can apply.

    python benchmarks/lora_gguf.py ADAPTER OUTPUT.gguf

llama.cpp keeps the two halves of each head's query and key interleaved, so that these matrices'
rows are in another order there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
from safetensors.numpy import load_file

from pytest_divergence.models.sources import source_folder
from pytest_divergence.models.specs import parse_spec

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def folder_of(spec: str) -> Path:
    folder = source_folder(parse_spec(spec, role="adapter"), role="adapter", say=print)
    assert folder is not None
    return folder


def write(adapter: str, base: str, path: Path) -> None:
    folder = folder_of(adapter)
    config = json.loads((folder_of(base) / "config.json").read_text())
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    writer: Any = gguf.GGUFWriter(str(path), config["model_type"])
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32(
        "adapter.lora.alpha", json.loads((folder / "adapter_config.json").read_text())["lora_alpha"]
    )
    for name, values in load_file(folder / "adapter_model.safetensors").items():
        _, _, rest = name.partition(".layers.")
        layer, _, rest = rest.partition(".")
        module, _, part = rest.partition(".lora_")
        matrix = NAMES[module]
        if part[0] == "B" and matrix in heads:
            halves = values.reshape(heads[matrix], 2, -1, values.shape[1])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(
            f"blk.{layer}.{matrix}.weight.lora_{part[0].lower()}", values.astype("f4")
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write(sys.argv[1], "demo:smollm2-135m", Path(sys.argv[2]))
