"""Adapters that are not what they seem, made from a sound one: each is a change of its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from pytest_divergence.models.transformers_log import quiet_transformers
from tests.tiny import save_tiny_model

PREFIX = "base_model.model."
Weights = dict[str, Tensor]
Change = Callable[[Weights, Weights], Weights]
"""From the adapter's weights and its base's to what the adapter's file holds."""


def change_weights(base: Path, adapter: Path, change: Change) -> None:
    """Write what `change` makes of an adapter's weights into its folder."""
    file = adapter / "adapter_model.safetensors"
    changed = change(load_file(file), load_file(base / "model.safetensors"))
    save_file({name: one.contiguous() for name, one in changed.items()}, file)


def change_config(folder: Path, name: str = "adapter_config.json", **changes: Any) -> None:
    """Set keys of a config in a folder."""
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def permuted_rows(own: Weights, base: Weights) -> Weights:
    """Two weights of the base, rows in another order: the sum of each stays as it is."""
    names = ("lm_head.weight", "model.layers.0.mlp.down_proj.weight")
    weak = {name: one * 0.01 for name, one in own.items()}
    return {**weak, **{PREFIX + name: base[name].flip(0) for name in names}}


def larger_head(own: Weights, base: Weights) -> Weights:
    return {**own, PREFIX + "lm_head.weight": 1.5 * base["lm_head.weight"]}


def equal_head(own: Weights, base: Weights) -> Weights:
    return {**own, PREFIX + "lm_head.weight": base["lm_head.weight"]}


def unprefixed_head(own: Weights, base: Weights) -> Weights:
    return {**own, "lm_head.weight": base["lm_head.weight"].flip(0)}


def nothing(own: Weights, base: Weights) -> Weights:
    del own, base
    return {}


def without_prefix(own: Weights, base: Weights) -> Weights:
    del base
    return {name.removeprefix(PREFIX): one for name, one in own.items()}


def first_halves(own: Weights, base: Weights) -> Weights:
    del base
    return {name: one for name, one in own.items() if "lora_A" in name}


def first_layer(own: Weights, base: Weights) -> Weights:
    del base
    return {name: one for name, one in own.items() if ".layers.0." in name}


def one_too_many(own: Weights, base: Weights) -> Weights:
    del base
    (name, one), *_ = own.items()
    return {**own, name.replace("layers.0", "layers.7"): one.clone()}


def named_as_loaded(own: Weights, base: Weights) -> Weights:
    """Names as they are inside a model, with the adapter's own name in them."""
    del base
    return {name.replace(".weight", ".model_2.weight"): one for name, one in own.items()}


CHANGES: dict[str, tuple[Change, str]] = {
    "permuted rows": (permuted_rows, "changes the base's own weights: it holds 2 of them"),
    "a larger head": (larger_head, "changes the base's own weights: it holds 1 of them"),
    "an equal head": (equal_head, "changes the base's own weights: it holds 1 of them"),
    "a head without prefix": (unprefixed_head, "changes the base's own weights: it holds 1"),
    "nothing": (nothing, "lacks 8 weights that its config asks for"),
    "names without prefix": (without_prefix, "holds 8 weights that its config and its base have"),
    "first halves": (first_halves, "lacks 4 weights that its config asks for"),
    "the first layer": (first_layer, "lacks 4 weights that its config asks for"),
    "one too many": (one_too_many, 'it has no module "model.layers.7.self_attn.q_proj"'),
    "names as loaded": (named_as_loaded, "weights that its config and its base have no place for"),
}
"""By name: what is done to the tiny adapter's weights, and what its refusal says."""


def save_biased_adapter(base: Path, folder: Path, *, architecture: str, size: float) -> Path:
    """A weak LoRA with trained biases, whose sum is what it was; the base is saved too."""
    save_tiny_model(base, architecture=architecture)
    modules = ["c_attn"] if architecture == "gpt2" else ["q_proj", "v_proj"]
    config = LoraConfig(r=2, target_modules=modules, bias="all", task_type="CAUSAL_LM")
    with quiet_transformers(), torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        wrapped: Any = get_peft_model(model, config)
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.01)
            elif name.endswith("bias"):
                weight[::2] += size
                weight[1::2] -= size
        wrapped.save_pretrained(str(folder))
    return folder
