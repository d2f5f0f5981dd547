"""Model folders of strangers: configs, weights, shards, and small files that are none.

One for each way in which a gate could measure what is not the model; the words in which the rest is
refused are tested in tests/models/test_folder_checks.py. What may be refused or not is `either`:
where a gate measures it, the number is the one that transformers alone gives.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.attacks.changes import (
    INDEX,
    MODEL,
    MODEL_WEIGHTS,
    Change,
    all_of,
    code,
    copied,
    cut,
    fifo,
    header,
    holding,
    in_json,
    linked,
    pickled,
    sharded,
    weights,
    without,
)
from tests.attacks.hostile import Outcome, Stranger

Case = tuple[str, Change, Outcome]
GENERATION = "generation_config.json"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
DOWN, NORM = "model.layers.0.mlp.down_proj.weight", "model.norm.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"
LAYERS = {"layers.0": "layers.1", "layers.1": "layers.0"}


def opening(text: str) -> Change:
    """The config with this behind its first brace."""

    def change(folder: Path) -> None:
        path = folder / MODEL
        path.write_text("{" + text + path.read_text("utf-8").lstrip()[1:], "utf-8")

    return change


def deep(levels: int, left: str, right: str) -> Change:
    """A key of the config with so many brackets in one another."""
    return opening(f'"x": {left * levels}1{right * levels},')


def tensor(name: str, edit: Any) -> Change:
    """One of the model's tensors changed."""
    return weights(lambda all_: {**all_, name: edit(all_[name])}, MODEL_WEIGHTS)


def more(name: str, *shape: int, file: str = MODEL_WEIGHTS) -> Change:
    """One more tensor."""
    return weights(lambda all_: {**all_, name: torch.ones(shape)}, file)


def swapped_layers(all_: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of both layers by each other's names."""
    parts = {name: next((one for one in LAYERS if one in name), "") for name in all_}
    return {k.replace(parts[k], LAYERS.get(parts[k], "")): v for k, v in all_.items()}


def rows(size: int, one: torch.Tensor) -> torch.Tensor:
    """A table of so many rows."""
    return torch.cat([one, one])[:size]


def with_rows(size: int) -> Change:
    """A vocabulary of another size, in both tables and in the config."""
    tables = (tensor(name, partial(rows, size)) for name in (HEAD, EMBEDDING))
    return all_of(*tables, in_json(MODEL, vocab_size=size))


def from_adapter(name: str) -> Change:
    """A file of an adapter beside the model's."""
    return copied(f"../adapter/{name}", name)


def in_index(name: str, shard: object) -> Change:
    """The index of shards with another place for one tensor."""
    return sharded(lambda index: index["weight_map"].update({name: shard}))


CONFIG_KEYS: list[tuple[dict[str, object], Outcome]] = [
    ({"num_" + "x" * 100_000 + "_layers": 10**9}, "refused"),
    ({"vocab_size": 272}, "refused"),
    ({"hidden_size": 0}, "refused"),
    ({"intermediate_size": "2"}, "refused"),
    ({"num_hidden_layers": 1}, "refused"),
    ({"num_hidden_layers": 3}, "refused"),
    ({"num_key_value_heads": -1}, "refused"),
    ({"head_dim": None}, "either"),
    ({"rms_norm_eps": 10**6}, "either"),
    ({"pad_token_id": 10**30}, "either"),
    ({"model_type": "mistral"}, "either"),
    ({"model_type": "qwen2"}, "refused"),
    ({"model_type": "bert"}, "refused"),
    ({"model_type": "t5"}, "refused"),
    ({"model_type": "x\x1b[2J\n::error::x"}, "refused"),
    ({"model_type": ["llama"]}, "either"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "either"),
    ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}, "either"),
    ({"rope_parameters": {"rope_type": "nobody", "rope_theta": 1e4}}, "either"),
    ({"dtype": "float16"}, "either"),
    ({"dtype": "os.system"}, "either"),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "either"),
    ({"quantization_config": {"quant_method": "nobody"}}, "either"),
    ({"tie_word_embeddings": True}, "either"),
    ({"attention_bias": True}, "refused"),
    ({"hidden_act": "gelu"}, "measured"),
    ({"hidden_act": "nobody"}, "refused"),
    ({"layer_types": ["sliding_attention", "sliding_attention"], "sliding_window": 1}, "either"),
    ({"auto_map": {"AutoConfig": "evil.C"}, "trust_remote_code": True}, "either"),
    ({"kernel_config": {"RMSNorm": "org/kernel:RMSNorm"}, "use_kernels": True}, "either"),
    ({"output_attentions": True, "output_hidden_states": True}, "either"),
    ({"eos_token_id": list(range(100_000))}, "either"),
    ({"text_config": {"model_type": "llama", "vocab_size": 10**9}}, "either"),
    ({"__deepcopy__": 7, "__reduce_ex__": 7}, "either"),
    ({"to_dict": 7}, "either"),
    ({"x\x1b[2J\n::error::x": 1}, "either"),
    ({"no_such_key": 10**400}, "either"),
    ({"no_such_key": "\ud800"}, "either"),
]
CONFIG_FILES: list[Case] = [
    ("as it is", lambda folder: None, "measured"),
    ("cut", cut(MODEL, -20), "refused"),
    ("one key twice, the first is wrong", opening('"vocab_size": 7,'), "either"),
    ("1e999", opening('"hidden_act_scale": 1e999,'), "either"),
    ("300 levels of {}", deep(300, '{"a":', "}"), "either"),
    ("850 levels of []", deep(850, "[", "]"), "either"),
    ("a million objects", opening(f'"x": [{"{}," * 1_000_000}1],'), "either"),
    ("a link to nowhere", linked(MODEL, "nowhere.json"), "refused"),
    ("a link to a good one", linked(MODEL, "../ft/config.json"), "measured"),
    ("a pickle", pickled(MODEL), "refused"),
]
TENSORS: list[Case] = [
    ("score.weight", more("score.weight", 2, 32), "refused"),
    ("an escape in a name", more("x\x1b[2J\n::error::x", 1), "refused"),
    ("rotary frequencies", more("model.layers.0.self_attn.rotary_emb.inv_freq", 8), "either"),
    ("two layers swapped", weights(swapped_layers, MODEL_WEIGHTS), "measured"),
    ("a table transposed", tensor(DOWN, lambda one: one.T), "refused"),
    ("a square one transposed", tensor(QUERY, lambda one: one.T), "measured"),
    ("a row more", tensor(HEAD, partial(rows, 272)), "refused"),
    ("both tables longer", with_rows(276), "measured"),
    ("both tables shorter", with_rows(200), "refused"),
    ("NaN", tensor(DOWN, lambda one: one * float("nan")), "refused"),
    ("1e38", tensor(HEAD, lambda one: torch.full_like(one, 1e38)), "refused"),
    (
        "of float16",
        weights(lambda all_: {k: v.half() for k, v in all_.items()}, MODEL_WEIGHTS),
        "measured",
    ),
    (
        "of bool",
        weights(lambda all_: {k: v.bool() for k, v in all_.items()}, MODEL_WEIGHTS),
        "either",
    ),
]
WEIGHT_FILES: list[Case] = [
    ("garbage", holding(MODEL_WEIGHTS, bytes(range(256)) * 9), "refused"),
    ("a header of 2**64 bytes", holding(MODEL_WEIGHTS, b"\xff" * 8 + b"{}"), "refused"),
    ("one place for two", header(lambda all_: all_[NORM].update(data_offsets=[0, 128])), "refused"),
    ("2**62 numbers", header(lambda all_: all_[NORM].update(shape=[1 << 31, 1 << 31])), "refused"),
    ("metadata of an object", header(lambda all_: all_.update(__metadata__={"a": {}})), "refused"),
    ("of flax", header(lambda all_: all_.update(__metadata__={"format": "flax"})), "either"),
    ("a link to a good one", linked(MODEL_WEIGHTS, "../ft/model.safetensors"), "measured"),
    ("a pickle", pickled(MODEL_WEIGHTS), "refused"),
    ("pickles beside", all_of(pickled("pytorch_model.bin"), pickled("x.pt")), "measured"),
    ("one more: of the base", copied("../base/model.safetensors", "zz.safetensors"), "either"),
    ("code beside", all_of(code("modeling_llama.py"), code("torch.py")), "measured"),
    ("an adapter's config beside", from_adapter("adapter_config.json"), "refused"),
    ("an adapter's weights beside", from_adapter("adapter_model.safetensors"), "either"),
]
SHARDS: list[Case] = [
    ("as they are", sharded(), "measured"),
    ("out of the folder", in_index(HEAD, "../ft/model.safetensors"), "refused"),
    (
        "a pickle called safetensors",
        all_of(pickled("x.safetensors"), in_index(HEAD, "x.safetensors")),
        "refused",
    ),
    ("missing", in_index(HEAD, "c.safetensors"), "refused"),
    ("a number", in_index(HEAD, 7), "refused"),
    ("an escape", in_index(HEAD, "x\x1b[2J\n.safetensors"), "refused"),
    ("the other's place", in_index(HEAD, "b.safetensors"), "either"),
    ("one without a place", sharded(lambda index: index["weight_map"].pop(HEAD)), "either"),
    ("one tensor in both", all_of(sharded(), more(HEAD, 271, 32, file="b.safetensors")), "either"),
    ("no key", sharded(lambda index: index.clear()), "refused"),
    ("an index of garbage", all_of(sharded(), holding(INDEX, "garbage")), "refused"),
    ("no index", all_of(sharded(), without(INDEX)), "refused"),
    (
        "an index of pickles beside",
        all_of(
            pickled("x.bin"),
            holding("pytorch_model.bin.index.json", json.dumps({"weight_map": {HEAD: "x.bin"}})),
        ),
        "measured",
    ),
]
SMALL_FILES: list[Case] = [
    ("generation_config.json: a pipe", fifo(GENERATION), "refused"),
    ("generation_config.json: garbage", holding(GENERATION, bytes(range(256))), "either"),
    ("special_tokens_map.json: deep", holding("special_tokens_map.json", "[" * 100_000), "either"),
    *(
        (f"generation {values}", in_json(GENERATION, **values), "either")
        for values in (
            {"eos_token_id": [2, 5, 9]},
            {"eos_token_id": {"a": 1}},
            {"custom_generate": "org/evil", "trust_remote_code": True},
            {"to_dict": 7, "validate": 7, "__class__": 7},
        )
    ),
]
FOLDERS = [
    *(
        Stranger(
            f"model config {str(values)[:90]}",
            all_of(code("evil.py"), in_json(MODEL, **values)),
            outcome,
            "ft",
            is_examined=True,
        )
        for values, outcome in CONFIG_KEYS
    ),
    *(
        Stranger(f"{kind}: {name}", change, outcome, "ft", is_examined=True)
        for kind, cases in (
            ("model config", CONFIG_FILES),
            ("tensors", TENSORS),
            ("model file", WEIGHT_FILES),
            ("shards", SHARDS),
            ("model folder", SMALL_FILES),
        )
        for name, change, outcome in cases
    ),
]
