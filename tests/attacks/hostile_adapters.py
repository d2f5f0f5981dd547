"""Adapters of strangers: keys, tensors, configs and files that are not what an adapter's are.

One for each branch of the checks, and each that once was measured in silence.
"""

from __future__ import annotations

import torch

from tests.attacks.changes import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    added,
    all_of,
    code,
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
HEAD = "lm_head.weight"
KEYS = [
    Stranger("as it is", lambda folder: None, "measured"),
    Stranger("no prefix", renamed(lambda k: k.removeprefix("base_model.model.")), "refused"),
    Stranger("another layer", renamed(lambda k: k.replace("layers.0", "layers.7")), "refused"),
    Stranger("escape in a name", renamed(lambda k: f"\x1b[2J{k}\n::error::x"), "refused"),
    Stranger("no key at all", kept(lambda k: False), "refused"),
    Stranger("lora_A alone", kept(lambda k: "lora_A" in k), "refused"),
    Stranger("layer 0 alone", kept(lambda k: "layers.0" in k), "refused"),
    Stranger("all but one", weights(lambda w: dict(list(w.items())[1:])), "refused"),
    Stranger("one more, prefixed", added(base_model__model__extra=torch.ones(3)), "refused"),
]
BASE_WEIGHTS = [
    Stranger(f"{HEAD} with its rows turned round", with_base(HEAD, shuffled), "refused"),
    Stranger(f"{HEAD} as it is in the base", with_base(HEAD, lambda one: one), "either"),
    Stranger("model.norm.weight", with_base("model.norm.weight", shuffled), "refused"),
    Stranger(
        "trained biases whose sum is 0",
        with_base(
            "model.layers.0.self_attn.q_proj.bias",
            lambda t: torch.tensor([4.0, -4.0]).repeat(len(t) // 2),
            "qwen2",
        ),
        "refused",
        "biased",
    ),
    Stranger("bias=all", in_config(bias="all"), "refused"),
    Stranger("modules_to_save without them", in_config(modules_to_save=["lm_head"]), "refused"),
    Stranger(
        "modules_to_save with them",
        all_of(in_config(modules_to_save=["lm_head"]), with_base(HEAD, shuffled)),
        "either",
    ),
]
TENSORS = [
    Stranger("lora_B of zeros", each(torch.zeros_like, "lora_B"), "measured"),
    Stranger("a hundred times as large", each(lambda t: 100 * t), "measured"),
    Stranger("NaN", each(lambda t: t * float("nan"), "lora_B"), "refused"),
    Stranger("1e38", each(lambda t: torch.full_like(t, 1e38)), "refused"),
    Stranger("transposed", each(lambda t: t.T), "refused"),
    Stranger("a scalar", each(lambda t: t.sum()), "refused"),
    Stranger("twice the rank", each(lambda t: torch.cat([t, t]), "lora_A"), "refused"),
    Stranger("of float16", each(lambda t: t.half()), "either"),
    Stranger("of int8", each(lambda t: t.to(torch.int8)), "either"),
]
CONFIG_KEYS: list[tuple[dict[str, object], Outcome]] = [
    ({"layer_replication": [[0, 2], [0, 2], [1, 2]]}, "refused"),
    ({"target_modules": BOMB}, "measured"),  # the matrices name the modules
    ({"target_modules": "all-linear"}, "refused"),
    ({"target_modules": ["q_proj"]}, "refused"),
    ({"target_modules": ["q_proj", "v_proj", *map(str, range(100_000))]}, "refused"),
    ({"exclude_modules": BOMB}, "refused"),
    ({"rank_pattern": {BOMB: 2}}, "refused"),
    ({"rank_pattern": {"q_proj": 10**9}}, "refused"),
    ({"alpha_pattern": {"q_proj": 64}}, "either"),
    ({"r": 10**9}, "refused"),
    ({"r": 4}, "refused"),
    ({"r": None}, "refused"),
    ({"lora_alpha": -8}, "either"),
    ({"lora_alpha": float("nan")}, "refused"),
    ({"use_rslora": True}, "either"),
    ({"use_dora": True}, "refused"),
    ({"init_lora_weights": "pissa"}, "refused"),
    ({"alora_invocation_tokens": [1]}, "refused"),
    ({"arrow_config": {"task_adapter_names": ["x"]}}, "refused"),
    ({"task_type": "SEQ_CLS"}, "either"),
    ({"auto_mapping": {"base_model_class": "evil", "parent_library": "evil"}}, "refused"),
    ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "refused"),
    ({"adapters": {"0": "evil/part"}}, "refused"),
    ({"no_such_key": 1}, "either"),
    ({"no_such_key": True}, "refused"),
    ({"peft_type": "PROMPT_TUNING"}, "refused"),
    ({"peft_type": "IA3"}, "refused"),
    ({"peft_type": ["LORA"]}, "refused"),
    ({"base_model_name_or_path": "org/model\x1b[2J\n::error::x"}, "either"),
    ({"base_model_name_or_path": "https://user:secret@example.org/model"}, "either"),
]
FILES = [
    Stranger("config: a list", holding(ADAPTER, "[]"), "refused"),
    Stranger("config: deep", holding(ADAPTER, "[" * 100_000 + "]" * 100_000), "refused"),
    Stranger("config: 200 MB of nothing", sparse(ADAPTER, 200 << 20), "refused"),
    Stranger("config: a pipe", fifo(ADAPTER), "refused"),
    Stranger("config: gone", without(ADAPTER), "refused"),
    Stranger("weights: bytes", holding(ADAPTER_WEIGHTS, bytes(range(256)) * 9), "refused"),
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
