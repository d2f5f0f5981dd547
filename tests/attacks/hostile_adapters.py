"""Adapters of strangers: keys, tensors, configs and files that are not what an adapter's are.

One for each way in which a gate could measure what is not the adapter. The words in which the rest
is refused are tested in tests/models: test_adapters.py, test_folder_checks.py.
"""

from __future__ import annotations

import torch

from tests.attacks.changes import (
    ADAPTER_WEIGHTS,
    all_of,
    code,
    each,
    in_config,
    kept,
    linked,
    pickled,
    renamed,
    shuffled,
    with_base,
)
from tests.attacks.hostile import Outcome, Stranger

HEAD = "lm_head.weight"
KEYS = [
    Stranger("as it is", lambda folder: None, "measured"),
    Stranger("escape in a name", renamed(lambda k: f"\x1b[2J{k}\n::error::x"), "refused"),
    Stranger("layer 0 alone", kept(lambda k: "layers.0" in k), "refused"),
]
BASE_WEIGHTS = [
    Stranger(f"{HEAD} with its rows turned round", with_base(HEAD, shuffled), "refused"),
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
    Stranger("twice the rank", each(lambda t: torch.cat([t, t]), "lora_A"), "refused"),
    Stranger("of float16", each(lambda t: t.half()), "either"),
    Stranger("of int8", each(lambda t: t.to(torch.int8)), "either"),
]
CONFIG_KEYS: list[tuple[dict[str, object], Outcome]] = [
    ({"layer_replication": [[0, 2], [0, 2], [1, 2]]}, "refused"),
    ({"rank_pattern": {"q_proj": 10**9}}, "refused"),
    ({"alpha_pattern": {"q_proj": 64}}, "either"),
    ({"r": None}, "refused"),
    ({"lora_alpha": -8}, "either"),
    ({"lora_alpha": float("nan")}, "refused"),
    ({"use_rslora": True}, "either"),
    ({"task_type": "SEQ_CLS"}, "either"),
    ({"no_such_key": 1}, "either"),
    ({"peft_type": "PROMPT_TUNING"}, "refused"),
    ({"peft_type": ["LORA"]}, "refused"),
    ({"base_model_name_or_path": "org/model\x1b[2J\n::error::x"}, "either"),
    ({"base_model_name_or_path": "https://user:secret@example.org/model"}, "either"),
]
FILES = [
    Stranger(
        "weights: of a stranger", linked(ADAPTER_WEIGHTS, "../ft/model.safetensors"), "refused"
    ),
    Stranger("weights: a pickle", pickled(ADAPTER_WEIGHTS), "refused"),
    Stranger("weights: adapter_model.bin beside", pickled("adapter_model.bin"), "either"),
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
