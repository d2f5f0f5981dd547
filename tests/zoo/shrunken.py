"""Any causal language model of transformers, shrunk to a few layers of 64 by its own configuration.

A configuration is shrunk by the names of its fields, so that a family which a new transformers adds
needs no line here; what a family's code asks beyond that stands in `overrides.py`. Knows nothing of
the package.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.tiny import TOKEN_IDS, tiny_tokenizer
from tests.zoo.overrides import OVERRIDES

FAMILIES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCAB_SIZE = len(tiny_tokenizer())
SPECIAL_IDS = {**TOKEN_IDS, "pad_token_id": 3}
"""Padding is no token of a text: some models find their positions by it."""
UNSEEN_ID = tiny_tokenizer().convert_tokens_to_ids("þ")
"""A byte that no UTF-8 text has: stands for images and the like."""
NUM_LAYERS = 2
HIDDEN = 64
NUM_HEADS = 4
HEAD_DIM = 16
WINDOW = 16
NUM_EXPERTS = 4
SPREAD = 0.15
"""Of matrices: wider than a trained model's start, so that so small a model's logits differ."""
NOISE = 0.1
"""Of biases and norms."""

SIZES: tuple[tuple[str, int], ...] = (
    (r".*vocab_size(_base|_per_layer_input)?|.*_hash_byte_group_vocab", VOCAB_SIZE),
    (r"qk_rope_head_dim|rotary_dim|index_rope_head_dim", HEAD_DIM // 2),
    (r"qk_head_dim", HEAD_DIM + HEAD_DIM // 2),
    (r".*head_?dim|.*attention_head_size|d_kv|d_head|dim_head|kv_channels|mamba_d_head", HEAD_DIM),
    (r"(moe|expert|shared|zero).*(intermediate|ffn_hidden)_size|.*experts_intermediate_size", 32),
    (r".*intermediate_size.*|.*ffn_dim|.*ffn_hidden_size|dff|d_ff|dim_ff|n_inner|d_inner", 96),
    (r"feed_forward_size", 96),
    (r"index(er)?_n_heads", 16),
    (r".*(key_value|kv|key)_(n_)?heads|kv_n_heads|num_query_groups", NUM_HEADS // 2),
    (r"(.*_)?(n|num)(_\w+)?_heads?|.*attention_heads|n_head", NUM_HEADS),
    (r".*shared_experts", 1),
    (r".*experts_per_tok(en)?|moe_top_?k|moe_k|top_k_experts", 2),
    (r"(.*_)?(num|n)_(\w+_)?experts|.*num_experts|zero_expert_num", NUM_EXPERTS),
    (r"n_groups?|num_expert_group|o_groups", 2),
    (r"topk_group", 1),
    (
        r"hidden_size_per_layer_input|.*lora_rank|.*_(low)?rank|time_step_rank|mamba_dt_rank",
        HEAD_DIM,
    ),
    (r".*hidden_size(_global)?|d_model|n_embd|.*emb(ed)?(ding)?_dim|.*embedding_size", HIDDEN),
    (
        r".*_(in|out)_dim|lru_width|word_embed_proj_dim|.*input_size|embed_dim|dim|.*hidden_dim",
        HIDDEN,
    ),
    (r".*window(_size|_len)?|sliding_window_size|local_attention|attention_chunk_size", WINDOW),
    (r".*chunk(_?size|_length)|block_size|index_block_size", 8),
    (r".*d_state|.*state_size", HEAD_DIM),
    (r"index_topk|rel_extent", WINDOW),
    (r".*positions?|.*position_embeddings|max_seq_len|model_max_length|context_length|n_ctx", 2048),
    (r"first_k_dense_replace|num_dense_layers|.*_layer_offset|num_kv_shared_layers", 1),
    (r".*_(period|pattern|interval|step)", 2),
    (r"(.*_)?(num|n)?_?(hidden_|encoder_|decoder_|recurrent_)?layers?|num_blocks", NUM_LAYERS),
)
"""How large an integer field may be, by its whole name; the first that matches holds."""
NUM_LAYERS_NAMES = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
CHOSEN = {
    "vocab_size": VOCAB_SIZE,
    "is_decoder": True,
    "logit_scale": 1.0,
    "logits_mup_width_multiplier": 1.0,
}
"""One vocabulary, encoders as decoders, and logits that are not all alike."""
FILLED = {
    "head_dim": HEAD_DIM,
    "num_key_value_heads": NUM_HEADS // 2,
    "num_experts": NUM_EXPERTS,
    "n_routed_experts": NUM_EXPERTS,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
}
"""Sizes that a family cannot do without and declares no default for."""


def shrunken_config(family: str, **changes: Any) -> PreTrainedConfig:
    """Return the configuration of a family, small; `changes` come last.

    A layer of each kind that the family's own default has stays.
    """
    overrides = dict(OVERRIDES.get(family, {}))
    start = overrides.pop("start", {})
    whole = {
        name: overrides.pop(name)
        for name in [*overrides]
        if isinstance(overrides[name], PreTrainedConfig)
    }
    kind = CONFIG_MAPPING[family]
    config = kind(**_shrunken(kind(**start), {**start, **overrides, **changes}))
    vars(config).update(whole)
    return config


def shrunken_model(config: PreTrainedConfig, *, seed: int = 0) -> PreTrainedModel:
    """Return a model in float32 whose logits are not all alike; the same seed gives the same."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        build: Any = AutoModelForCausalLM.from_config
        model: PreTrainedModel = build(config, dtype=torch.float32)
        _widen(model)
    model.train(False)
    return model


def perturbed(model: PreTrainedModel, size: float, *, seed: int = 1) -> PreTrainedModel:
    """Return a copy with noise of `size` times each matrix's own spread."""
    other = copy.deepcopy(model)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for weight in other.parameters():
            if weight.ndim > 1:
                weight.add_(torch.randn_like(weight) * weight.std() * size)
    return other


def _widen(model: PreTrainedModel) -> None:
    """Give what starts flat, as zeros, ones or a narrow normal, the spread of a trained model."""
    for weight in model.parameters():
        if weight.numel() < 2:
            continue
        spread = weight.std()
        if weight.ndim > 1:
            weight.mul_(SPREAD / spread if spread else 1.0)
            flat = weight.std(-1, keepdim=True) == 0  # the row of padding, say
            weight.add_(torch.randn_like(weight) * SPREAD * flat)
        else:
            weight.add_(torch.randn_like(weight) * NOISE)
    for table in model.buffers():
        if table.dtype == torch.long and table.ndim == 2 and len(table) == VOCAB_SIZE:
            table.random_(NUM_EXPERTS)  # which experts read a token


def _shrunken(config: PreTrainedConfig, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a small config of the same class."""
    values = {name: _value(config, name) for name in _declared(config)}
    chosen = _chosen_layers(values)
    small: dict[str, Any] = {}
    for name, declared in _declared(config).items():
        value = values[name]
        if isinstance(value, PreTrainedConfig):
            small[name] = type(value)(**_shrunken(value, overrides.get(name, {})))
        elif name in overrides:
            small[name] = overrides[name]
        elif name in SPECIAL_IDS:
            small[name] = SPECIAL_IDS[name]
        elif name in NUM_LAYERS_NAMES and _is_integer(declared):
            small[name] = len(chosen)
        elif _is_per_layer(value, _num_layers(values)):
            small[name] = [_size(name, value[index]) for index in chosen]
        elif isinstance(value, dict) and "rope" in name:
            small[name] = _shrunken_rope(value)
        else:
            small[name] = _size(name, FILLED.get(name) if value is None else declared)
    # A head that is the embedding says each token again, so only an override ties them.
    tied = {"tie_word_embeddings": overrides.get("tie_word_embeddings", False)}
    small = _matched(values, small) | tied
    spec = vars(config).get("_heterogeneity_spec")
    if spec is not None:  # some layers have sizes of their own
        small["per_layer_config"] = {
            place: _matched(own, {name: _size(name, value) for name, value in own.items()})
            for place, index in enumerate(chosen)
            if (own := spec.per_layer_overrides.get(index))
        }
    return small | {name: value for name, value in overrides.items() if name not in small}


def _matched(values: Mapping[str, Any], small: dict[str, Any]) -> dict[str, Any]:
    """Return the small sizes, with as many heads of keys as of queries where it was so before."""
    heads = {values.get(f"num_{kind}_heads") for kind in ("key_value", "attention")}
    if len(heads) == 1 and small.get("num_key_value_heads"):
        return small | {"num_key_value_heads": NUM_HEADS}
    return small


def _value(config: PreTrainedConfig, name: str) -> Any:
    """Return what a field holds, also where other layers hold something else."""
    return vars(config).get(config.attribute_map.get(name, name))


def _declared(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the fields that a configuration's class adds, with the defaults that it declares."""
    base = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return {
        field.name: _value(config, field.name)
        if field.default is dataclasses.MISSING
        else field.default
        for field in dataclasses.fields(config)
        if field.name not in base
    }


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _size(name: str, value: Any) -> Any:
    """Return the value of a field in a small config."""
    if name in CHOSEN and value is not None:
        return CHOSEN[name]
    if isinstance(value, float) and "dropout" in name:
        return 0.0
    if not _is_integer(value):
        return value
    if re.fullmatch(r".*_token_(id|index)", name):
        return UNSEEN_ID if value >= VOCAB_SIZE else value
    sizes = (size for pattern, size in SIZES if re.fullmatch(pattern, name))
    return min(value, next(sizes, value))


def _num_layers(values: Mapping[str, Any]) -> int:
    return next((values[name] for name in NUM_LAYERS_NAMES if _is_integer(values.get(name))), 0)


def _is_per_layer(value: Any, num_layers: int) -> bool:
    """Whether a value says something of each layer; a list of all their indices says nothing."""
    return isinstance(value, list) and len(value) == num_layers and value != [*range(num_layers)]


def _chosen_layers(values: Mapping[str, Any]) -> list[int]:
    """Return the indices of one layer of each kind, and of two at least."""
    total = _num_layers(values)
    lists = [value for value in values.values() if _is_per_layer(value, total)]
    kinds: dict[tuple[str, ...], int] = {}
    for index in range(total):
        kinds.setdefault(tuple(str(value[index]) for value in lists), index)
    chosen = sorted(kinds.values())
    rest = [index for index in range(total) if index not in chosen]
    return sorted(chosen + rest[: max(0, NUM_LAYERS - len(chosen))])


def _shrunken_rope(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of rotary positions, with sections that fill a small head."""
    small = {
        name: _shrunken_rope(value) if isinstance(value, Mapping) else value
        for name, value in rope.items()
    }
    if "mrope_section" in rope:
        half = int(HEAD_DIM * rope.get("partial_rotary_factor", 1.0)) // 2
        small["mrope_section"] = [half - 2 * (half // 3), half // 3, half // 3]
    return small
