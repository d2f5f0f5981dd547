"""Configs of strangers' models: sizes no model has, other families, and keys that name code.

What may be refused or not is `either`: where a gate measures it, the number is the one that
transformers alone gives.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.attacks.changes import MODEL, all_of, code, in_json
from tests.attacks.hostile import Outcome, Stranger

Case = tuple[dict[str, object], Outcome]
NO_SIZE: tuple[object, ...] = (0, -1, 10**6, 10**9, 10**30, 1e30, "2", None, [2], {"a": {"b": 2}})
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
"""What the shapes of the weights follow from: no other value fits these."""
FITTING = {("head_dim", "None")}
"""What is computed where it is not given."""
NUMBERS = (
    "max_position_embeddings",
    "rms_norm_eps",
    "attention_dropout",
    "initializer_range",
    "pretraining_tp",
    "eos_token_id",
    "pad_token_id",
)
"""What no shape follows from: any value may do."""
TYPES: dict[str, Outcome] = {
    "mistral": "either",
    "gemma": "either",
    "qwen2": "refused",
    "qwen3": "refused",
    "phi3": "refused",
    "gpt2": "refused",
    "mixtral": "refused",
    "gpt_oss": "refused",
    "deepseek_v3": "refused",
    "mamba": "refused",
    "bert": "refused",
    "roberta": "refused",
    "t5": "refused",
    "bart": "refused",
    "whisper": "refused",
    "vit": "refused",
    "clip": "refused",
    "llava": "refused",
    "encoder-decoder": "refused",
    "timm_wrapper": "refused",
    "nobody": "refused",
    "../evil": "refused",
    "x\x1b[2J\n::error::x": "refused",
    "": "refused",
}
ARCHITECTURES: tuple[object, ...] = (
    None,
    [],
    "LlamaForCausalLM",
    ["GPT2LMHeadModel"],
    ["BertModel"],
    ["T5ForConditionalGeneration"],
    ["LlamaForSequenceClassification"],
    ["evil.Model"],
    [7],
    {"x": 1},
    ["A" * 100] * 10_000,
)
ROPES: tuple[object, ...] = (
    None,
    [],
    "linear",
    {},
    {"rope_type": "nobody", "rope_theta": 1e4},
    {"rope_type": ["linear"], "rope_theta": 1e4},
    {"rope_type": "linear", "rope_theta": 1e4},
    {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    {"rope_type": "linear", "rope_theta": 1e4, "factor": 0},
    {"rope_type": "linear", "rope_theta": 1e4, "factor": "4"},
    {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 1e30},
    {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "beta_fast": -1},
    {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0], "long_factor": [1.0]},
    {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0},
    {"rope_type": "default", "rope_theta": 0},
    {"rope_type": "default", "rope_theta": -1.0},
    {"rope_type": "default", "rope_theta": float("nan")},
    {"rope_type": "default", "rope_theta": 1e30},
    {"rope_type": "default", "rope_theta": 5e5},
    {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 10**9},
    {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
)
DTYPES: tuple[object, ...] = (
    "float16",
    "bfloat16",
    "float64",
    "int8",
    "float8_e4m3fn",
    "nobody",
    "os.system",
    "load",
    "torch.float16",
    "auto",
    7,
    ["float32"],
    {"": "float16"},
)
QUANTISATIONS: tuple[object, ...] = (
    {},
    "bitsandbytes",
    [],
    7,
    {"quant_method": None},
    {"quant_method": ["gptq"]},
    {"quant_method": "nobody"},
    {"quant_method": "bitsandbytes", "load_in_4bit": True},
    {"quant_method": "bitsandbytes"},
    {"load_in_8bit": True},
    {"quant_method": "gptq", "bits": 4},
    {"quant_method": "awq", "bits": 4},
    {"quant_method": "fp8"},
    {"quant_method": "mxfp4"},
    {"quant_method": "hqq"},
    {"quant_method": "torchao", "quant_type": {"default": {"_type": "evil"}}},
    {"quant_method": "compressed-tensors", "config_groups": {}},
    {"quant_method": "bitnet"},
)
OTHERS: list[Case] = [
    ({"num_labels": 10**9}, "refused"),
    ({"num_labels": -1}, "either"),
    ({"num_labels": "x"}, "either"),
    ({"id2label": {str(at): "x" for at in range(100_000)}}, "either"),
    ({"id2label": {"x": 1}}, "either"),
    ({"id2label": [1], "label2id": 7}, "either"),
    ({"vocab_size": 270}, "refused"),
    ({"vocab_size": 272}, "refused"),
    ({"num_hidden_layers": 1}, "refused"),
    ({"num_hidden_layers": 3}, "refused"),
    ({"num_hidden_layers": True}, "refused"),
    ({"num_hidden_layers": 2.0}, "either"),
    ({"num_experts": 10**9, "num_local_experts": 10**9}, "refused"),
    ({"tie_word_embeddings": True}, "either"),
    ({"tie_word_embeddings": "no"}, "either"),
    ({"attention_bias": True}, "refused"),
    ({"mlp_bias": True}, "refused"),
    ({"hidden_act": "nobody"}, "refused"),
    ({"hidden_act": "gelu"}, "measured"),
    ({"hidden_act": ["gelu"]}, "refused"),
    ({"hidden_act": None}, "refused"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "either"),
    ({"rope_theta": 5e5}, "either"),
    ({"layer_types": ["sliding_attention", "sliding_attention"], "sliding_window": 1}, "either"),
    ({"layer_types": ["nobody"]}, "either"),
    ({"sliding_window": 0}, "either"),
    ({"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}, "either"),
    ({"auto_map": {"AutoModelForCausalLM": "org/repo--evil.M"}}, "either"),
    ({"auto_map": "evil.M"}, "either"),
    ({"auto_map": {"AutoConfig": "evil.C"}, "trust_remote_code": True}, "either"),
    ({"auto_map": {"AutoConfig": "evil.C"}, "model_type": "evil"}, "refused"),
    ({"custom_pipelines": {"x": {"impl": "evil.P"}}}, "either"),
    ({"transformers_weights": "zz.safetensors"}, "refused"),
    ({"transformers_weights": "../ft/model.safetensors"}, "refused"),
    ({"transformers_weights": ["pytorch_model.bin"]}, "refused"),
    ({"_attn_implementation": "org/kernel"}, "refused"),
    ({"_attn_implementation": {"": "org/kernel"}}, "refused"),
    ({"_attn_implementation": "paged|org/kernel"}, "refused"),
    ({"text_config": {"_attn_implementation": "org/kernel"}}, "refused"),
    ({"parts": [[{"x": [{"attn_implementation": "org/kernel"}]}]]}, "refused"),
    ({"experts_implementation": "org/kernel"}, "refused"),
    ({"_experts_implementation": "org/kernel"}, "either"),
    ({"_attn_implementation_internal": "org/kernel"}, "either"),
    ({"_attn_implementation": "flash_attention_2"}, "either"),
    ({"kernel_config": {"RMSNorm": "org/kernel:RMSNorm"}, "use_kernels": True}, "either"),
    ({"fusion_config": {"x": "evil"}}, "refused"),
    ({"torchscript": True}, "either"),
    ({"return_dict": False}, "refused"),
    ({"return_dict": 0}, "either"),
    ({"return_dict": "no"}, "either"),
    ({"use_return_dict": False}, "either"),
    ({"use_cache": False}, "measured"),
    ({"use_cache": "no"}, "either"),
    ({"output_attentions": True, "output_hidden_states": True}, "either"),
    ({"is_encoder_decoder": True}, "refused"),
    ({"is_encoder_decoder": 1}, "either"),
    ({"is_decoder": True, "add_cross_attention": True}, "either"),
    ({"pruned_heads": {"0": [0]}}, "either"),
    ({"chunk_size_feed_forward": 10**9}, "either"),
    ({"gradient_checkpointing": True}, "either"),
    ({"max_length": -1, "num_beams": 10**9, "do_sample": True, "temperature": 0}, "either"),
    ({"forced_eos_token_id": [10**30], "suppress_tokens": "x"}, "either"),
    ({"eos_token_id": list(range(100_000))}, "either"),
    ({"bos_token_id": "<s>"}, "either"),
    ({"text_config": {"model_type": "llama", "vocab_size": 10**9}}, "either"),
    ({"text_config": 7, "vision_config": []}, "either"),
    ({"decoder": {"model_type": "bert"}}, "either"),
    ({"sub_configs": {"x": "evil"}, "attribute_map": {"vocab_size": "evil"}}, "either"),
    ({"base_model_tp_plan": {"x": "evil"}, "device_map": "auto"}, "either"),
    ({"to_dict": 7}, "either"),
    ({"get_text_config": 7}, "either"),
    ({"__class__": "evil", "__dict__": {}}, "either"),
    ({"__deepcopy__": 7, "__reduce_ex__": 7}, "either"),
    ({"_name_or_path": "https://user:secret@example.org/x", "_commit_hash": "x"}, "either"),
    ({"transformers_version": "99.0"}, "either"),
    ({"transformers_version": ["x"]}, "either"),
    ({"x\x1b[2J\n::error::x": 1}, "either"),
    ({"x" * 100_000: 1}, "either"),
    ({"num_" + "x" * 100_000 + "_layers": 10**9}, "refused"),
    ({"no_such_key": 10**400}, "either"),
    ({"no_such_key": "\ud800"}, "either"),
    ({"problem_type": "x"}, "either"),
    ({"num_labels": 3, "id2label": {"0": "x"}}, "either"),
]


def _keys() -> Iterator[Case]:
    for key in SIZES:
        for value in NO_SIZE:
            is_two = key in ("num_hidden_layers", "num_attention_heads") and value == "2"
            fits = is_two or (key, str(value)) in FITTING
            yield {key: value}, "either" if fits else "refused"
    for key in NUMBERS:
        for value in NO_SIZE:
            yield {key: value}, "either"
    for name, outcome in TYPES.items():
        yield {"model_type": name}, outcome
    for what in (..., None, 7, ["llama"], {"llama": 1}):
        yield {"model_type": what}, "either"
    for key, values in (
        ("architectures", ARCHITECTURES),
        ("rope_parameters", ROPES),
        ("dtype", DTYPES),
        ("quantization_config", QUANTISATIONS),
    ):
        for value in values:
            yield {key: value}, "either"
    yield {"torch_dtype": "nobody"}, "either"
    yield {"torch_dtype": "float16"}, "either"
    yield from OTHERS


CONFIGS = [
    Stranger(
        f"model config {str(values)[:90]}",
        all_of(code("evil.py"), in_json(MODEL, **values)),
        outcome,
        "ft",
        is_examined=True,
    )
    for values, outcome in _keys()
]
