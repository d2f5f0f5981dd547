"""A tiny Llama as a GGUF file, as llama.cpp's converter would write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

from tests.tiny import CHATML, SPECIAL

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(folder: Path, path: Path, *, is_quantised: bool = False) -> Path:
    """Write the Llama in `folder` to `path`: in float32, or its matrices in 8 bits (Q8_0)."""
    config = json.loads((folder / "config.json").read_text())
    raw = json.loads((folder / "tokenizer.json").read_text())
    writer: Any = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    _add_rope(writer, config["rope_parameters"])
    writer.add_vocab_size(config["vocab_size"])
    ids = dict(raw["model"]["vocab"])
    ids |= {token["content"]: token["id"] for token in raw["added_tokens"]}
    ids |= {f"[PAD{id_}]": id_ for id_ in range(len(ids), config["vocab_size"])}
    writer.add_tokenizer_model("gpt2")
    tokens = sorted(ids, key=ids.__getitem__)
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    )
    writer.add_tokenizer_pre("gpt-2")
    writer.add_chat_template(CHATML)
    writer.add_token_merges([" ".join(pair) for pair in raw["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    heads = {
        "self_attn.q_proj": config["num_attention_heads"],
        "self_attn.k_proj": config["num_key_value_heads"],
    }
    for name, weight in load_file(folder / "model.safetensors").items():
        part = next((part for part in heads if part in name), None)
        values = _interleaved(weight, heads[part]) if part else weight
        _add(writer, _name(name), values.float().numpy(), is_quantised=is_quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_rope(writer: Any, rope: dict[str, Any]) -> None:
    """llama 3's scaling is not among the keys: the converter writes its frequencies as a tensor."""
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, number, rest = name.split(".", 3)
    part = rest.removesuffix(".weight")
    return f"blk.{number}.{LAYER_NAMES[part]}.weight"


def _interleaved(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows in llama.cpp's order for rotary positions."""
    halves = weight.reshape(num_heads, 2, weight.shape[0] // num_heads // 2, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _add(writer: Any, name: str, values: np.ndarray[Any, Any], *, is_quantised: bool) -> None:
    if is_quantised and values.ndim == 2:
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, np.ascontiguousarray(values))
