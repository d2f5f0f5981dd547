"""Adapters of strangers: keys, tensors, configs and files that are not what an adapter's are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from tests.attacks.changes import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    added,
    all_of,
    code,
    cut,
    each,
    fifo,
    holding,
    in_config,
    kept,
    linked,
    pickled,
    renamed,
    shuffled,
    sparse,
    weights,
    with_base,
    without,
)
from tests.attacks.hostile import Outcome, Stranger

BOMB = "^(([a-z\\._0-9])+)+X$"
"""A regular expression that takes for ever on a name that it does not match."""
ZEROS = torch.zeros(2, 32)
LAYER = "base_model.model.model.layers.0.self_attn."
PEFT_TYPES = [
    "PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "ADAPTION_PROMPT",
    "IA3",
    "LOHA",
    "LOKR",
    "ADALORA",
    "VERA",
    "OFT",
    "BOFT",
    "XLORA",
    "POLY",
    "LN_TUNING",
    "FOURIERFT",
    "HRA",
    "VBLORA",
    "TRAINABLE_TOKENS",
    "NOSUCH",
    "lora",
]


def _as(dtype: torch.dtype, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(dtype)


KEYS = [
    Stranger("as it is", lambda folder: None, "measured"),
    Stranger("no prefix", renamed(lambda k: k.removeprefix("base_model.model.")), "refused"),
    Stranger("twice the prefix", renamed(lambda k: f"base_model.model.{k}"), "refused"),
    Stranger("lower case", renamed(str.lower), "refused"),
    Stranger("another layer", renamed(lambda k: k.replace("layers.0", "layers.7")), "refused"),
    Stranger("another module", renamed(lambda k: k.replace("q_proj", "o_proj")), "refused"),
    Stranger("weights for weight", renamed(lambda k: f"{k}s"), "refused"),
    Stranger(
        "an adapter's name inside",
        renamed(lambda k: k.replace(".weight", ".default.weight")),
        "refused",
    ),
    Stranger("blank in a name", renamed(lambda k: f" {k}"), "refused"),
    Stranger("escape in a name", renamed(lambda k: f"\x1b[2J{k}\n::error::x"), "refused"),
    Stranger("no key at all", kept(lambda k: False), "refused"),
    Stranger("lora_A alone", kept(lambda k: "lora_A" in k), "refused"),
    Stranger("lora_B alone", kept(lambda k: "lora_B" in k), "refused"),
    Stranger("layer 0 alone", kept(lambda k: "layers.0" in k), "refused"),
    Stranger("all but one", weights(lambda w: dict(list(w.items())[1:])), "refused"),
    Stranger("one more key", added(extra=torch.ones(3)), "refused"),
    Stranger("one more, prefixed", added(base_model__model__extra=torch.ones(3)), "refused"),
    Stranger(
        "a module not in target_modules",
        added(
            **{
                f"{LAYER}k_proj.lora_A.weight".replace(".", "__"): ZEROS,
                f"{LAYER}k_proj.lora_B.weight".replace(".", "__"): torch.ones(16, 2),
            }
        ),
        "refused",
    ),
    Stranger(
        "embedding adapters",
        added(base_model__model__model__embed_tokens__lora_embedding_A=ZEROS),
        "refused",
    ),
    Stranger("a metric beside", added(**{f"{LAYER}q_proj.lora_M.weight": ZEROS}), "refused"),
]
HOW: tuple[tuple[str, Callable[[torch.Tensor], torch.Tensor], Outcome], ...] = (
    ("with its rows turned round", shuffled, "refused"),
    ("as it is in the base", lambda tensor: tensor, "either"),
)
BASE_WEIGHTS = [
    Stranger(f"{name} {how}", with_base(name, change), outcome)
    for name in (
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.norm.weight",
    )
    for how, change, outcome in HOW
] + [
    Stranger("lm_head times 1.5", with_base("lm_head.weight", lambda t: 1.5 * t), "refused"),
    Stranger(
        "two base weights swapped in sign",
        all_of(
            with_base("lm_head.weight", lambda t: -t),
            with_base("model.layers.0.mlp.down_proj.weight", lambda t: -t),
        ),
        "refused",
    ),
    Stranger(
        "trained biases whose sum is 0",
        all_of(
            in_config(bias="all"),
            with_base(
                "model.layers.0.self_attn.q_proj.bias",
                lambda t: torch.tensor([4.0, -4.0]).repeat(len(t) // 2),
                "qwen2",
            ),
        ),
        "refused",
        "biased",
    ),
    Stranger("bias=lora_only without one", in_config(bias="lora_only"), "either", "biased"),
    Stranger("bias=all without one", in_config(bias="all"), "either"),
    Stranger("modules_to_save without them", in_config(modules_to_save=["lm_head"]), "refused"),
    Stranger(
        "modules_to_save with them",
        all_of(
            in_config(modules_to_save=["lm_head"]),
            with_base("lm_head.weight", shuffled),
        ),
        "either",
    ),
    Stranger("modules_to_save=model", in_config(modules_to_save=["model"]), "refused"),
]
TENSORS = [
    Stranger("lora_B of zeros", each(torch.zeros_like, "lora_B"), "measured"),
    Stranger("all zeros", each(torch.zeros_like), "measured"),
    Stranger("a hundred times as large", each(lambda t: 100 * t), "measured"),
    Stranger("NaN", each(lambda t: t * float("nan"), "lora_B"), "refused"),
    Stranger("infinite", each(lambda t: t * float("inf"), "lora_A"), "refused"),
    Stranger("1e38", each(lambda t: torch.full_like(t, 1e38)), "refused"),
    Stranger("transposed", each(lambda t: t.T), "refused"),
    Stranger("flat", each(lambda t: t.flatten()), "refused"),
    Stranger("a scalar", each(lambda t: t.sum()), "refused"),
    Stranger("empty", each(lambda t: t[:0]), "refused"),
    Stranger("three axes", each(lambda t: t[None]), "refused"),
    Stranger("twice the rank", each(lambda t: torch.cat([t, t]), "lora_A"), "refused"),
    Stranger("half the width", each(lambda t: t[:, :16], "lora_A"), "refused"),
    *(
        Stranger(f"of {dtype}", each(partial(_as, dtype)), "either")
        for dtype in (
            torch.float16,
            torch.bfloat16,
            torch.float64,
            torch.int8,
            torch.int64,
            torch.bool,
            torch.float8_e4m3fn,
        )
    ),
]


def _each_either(key: str, values: Sequence[object]) -> Iterator[tuple[dict[str, object], Outcome]]:
    for value in values:
        yield {key: value}, "either"


CONFIG_KEYS: list[tuple[dict[str, object], Outcome]] = [
    ({"layer_replication": [[0, 2], [0, 2], [1, 2]]}, "refused"),
    ({"layer_replication": [[0, 1]]}, "refused"),
    ({"layer_replication": "x"}, "refused"),
    ({"target_modules": BOMB}, "refused"),
    ({"target_modules": "(" * 300}, "refused"),
    ({"target_modules": "q_proj|v_proj"}, "either"),
    ({"target_modules": ".*"}, "refused"),
    ({"target_modules": "all-linear"}, "refused"),
    ({"target_modules": []}, "refused"),
    ({"target_modules": None}, "either"),
    ({"target_modules": 5}, "refused"),
    ({"target_modules": ["q_proj"]}, "refused"),
    ({"target_modules": ["q_proj", "v_proj", *map(str, range(100_000))]}, "refused"),
    ({"target_parameters": ["model.layers.0.mlp.down_proj.weight"]}, "refused"),
    ({"exclude_modules": BOMB}, "refused"),
    ({"exclude_modules": ["q_proj"]}, "refused"),
    ({"layers_to_transform": [0]}, "refused"),
    ({"layers_to_transform": [0, 1], "layers_pattern": BOMB}, "refused"),
    ({"rank_pattern": {BOMB: 2}}, "refused"),
    ({"rank_pattern": {"q_proj": 10**9}}, "refused"),
    ({"alpha_pattern": {BOMB: 2}}, "refused"),
    ({"alpha_pattern": {"q_proj": 64}}, "either"),
    ({"r": 10**9}, "refused"),
    ({"r": 0}, "refused"),
    ({"r": -1}, "refused"),
    ({"r": 4}, "refused"),
    ({"r": "2"}, "refused"),
    ({"r": None}, "refused"),
    ({"lora_alpha": 0}, "either"),
    ({"lora_alpha": -8}, "either"),
    ({"lora_alpha": 1e308}, "refused"),
    ({"lora_alpha": float("nan")}, "refused"),
    ({"lora_alpha": "eight"}, "refused"),
    ({"use_rslora": True}, "either"),
    ({"use_dora": True}, "refused"),
    ({"lora_bias": True}, "refused"),
    ({"lora_dropout": 0.99}, "either"),
    ({"fan_in_fan_out": True}, "either"),
    ({"init_lora_weights": "pissa"}, "either"),
    ({"init_lora_weights": "olora"}, "either"),
    ({"init_lora_weights": "eva"}, "either"),
    ({"init_lora_weights": "loftq"}, "either"),
    ({"init_lora_weights": False}, "either"),
    ({"trainable_token_indices": [1, 2]}, "refused"),
    ({"alora_invocation_tokens": [1]}, "either"),
    ({"inference_mode": False}, "either"),
    ({"task_type": "SEQ_CLS"}, "either"),
    ({"task_type": None}, "either"),
    ({"task_type": "NOSUCH"}, "either"),
    ({"task_type": 3}, "either"),
    ({"auto_mapping": {"base_model_class": "evil", "parent_library": "evil"}}, "refused"),
    ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "refused"),
    ({"no_such_key": 1}, "either"),
    ({"peft_version": "99.0"}, "either"),
    ({"revision": "../../x"}, "either"),
    ({"runtime_config": {"ephemeral_gpu_offload": True}}, "either"),
    ({"peft_type": None}, "either"),
    ({"peft_type": 7}, "refused"),
    ({"peft_type": ["LORA"]}, "refused"),
    *_each_either(
        "base_model_name_or_path",
        (
            "../../../etc/passwd",
            "https://user:secret@example.org/model",
            "org/model\x1b[2J\n::error::x",
            "x" * 100_000,
            None,
            7,
            ["base"],
        ),
    ),
    *_each_either("peft_type", PEFT_TYPES),
]
FILES = [
    Stranger("config: nothing", holding(ADAPTER, b""), "refused"),
    Stranger("config: a list", holding(ADAPTER, "[]"), "refused"),
    Stranger("config: NaN", holding(ADAPTER, '{"r": NaN}'), "refused"),
    Stranger("config: bytes", holding(ADAPTER, bytes(range(256))), "refused"),
    Stranger("config: deep", holding(ADAPTER, "[" * 100_000 + "]" * 100_000), "refused"),
    Stranger("config: 200 MB of nothing", sparse(ADAPTER, 200 << 20), "refused"),
    Stranger("config: a pipe", fifo(ADAPTER), "refused"),
    Stranger("config: /dev/zero", linked(ADAPTER, "/dev/zero"), "refused"),
    Stranger("config: gone", without(ADAPTER), "refused"),
    Stranger("weights: nothing", holding(ADAPTER_WEIGHTS, b""), "refused"),
    Stranger("weights: bytes", holding(ADAPTER_WEIGHTS, bytes(range(256)) * 9), "refused"),
    Stranger("weights: cut", cut(ADAPTER_WEIGHTS, -40), "refused"),
    Stranger("weights: a long header", holding(ADAPTER_WEIGHTS, b"\xff" * 8 + b"{}"), "refused"),
    Stranger("weights: a pipe", fifo(ADAPTER_WEIGHTS), "refused"),
    Stranger("weights: /dev/zero", linked(ADAPTER_WEIGHTS, "/dev/zero"), "refused"),
    Stranger(
        "weights: of a stranger", linked(ADAPTER_WEIGHTS, "../ft/model.safetensors"), "refused"
    ),
    Stranger("weights: a pickle", pickled(ADAPTER_WEIGHTS), "refused"),
    Stranger("weights: adapter_model.bin beside", pickled("adapter_model.bin"), "either"),
    Stranger(
        "weights: adapter_model.bin alone",
        all_of(pickled("adapter_model.bin"), without(ADAPTER_WEIGHTS)),
        "refused",
    ),
    Stranger("one more pipe", fifo("zz.safetensors"), "either"),
    Stranger("code beside", all_of(code("configuration.py"), code("__init__.py")), "either"),
    Stranger(
        "code named",
        all_of(code("evil.py"), in_config(auto_map={"AutoConfig": "evil.Config"})),
        "either",
    ),
]
ADAPTERS = [
    *KEYS,
    *BASE_WEIGHTS,
    *TENSORS,
    *(
        Stranger(f"config {str(values)[:60]}", in_config(**values), outcome)
        for values, outcome in CONFIG_KEYS
    ),
    *FILES,
]
