"""Checks of an adapter's folder, made before anything in it is loaded.

An adapter is untrusted input like any model folder, and can do more: PEFT imports, fetches and
rebuilds what its config says. Keys that may change anything but the adapter's own layers are
refused by name. Its weights are checked by `pytest_divergence.models.adapters`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.models.folder_files import check_files, model_shapes, read_json_object
from pytest_divergence.models.module_patterns import pattern_problem

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before each name in an adapter's file."""
FETCHING_KEYS: dict[str, tuple[object, ...]] = {
    "adapters": (None, {}),
    "shadow_model": (None, "mirror"),
}
"""Values that make PEFT fetch nothing for an adapter (X-LoRA's parts, a shadow's backbone)."""
OTHER_MODEL_KEYS = {
    "layer_replication": "which rebuilds the base from its layers, so the reference would "
    "not be the model that you named",
    "alora_invocation_tokens": "so it is active only after certain tokens, and most of a "
    "comparison would be of the base with itself",
    "arrow_config": "which mixes other adapters, stored elsewhere",
}
"""Keys that turn the base or the adapter into another model than the user named."""
HARMLESS_INITS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
"""LoRA initialisations that leave the base's weights alone; PiSSA, OLoRA, CorDA, LoftQ do not."""
MODULE_KEYS = ("_modules", "_pattern", "_parameters", "_indices", "_bd_a", "_bd_b")
"""Endings of keys whose texts PEFT matches against module names."""
MOST_NAMES = 1_000
"""Texts by which an adapter of few tensors may name modules: PEFT tries each on every module."""
MERGE = "Merge it into a full model with merge_and_unload() and give that folder."


def screen_adapter_folder(folder: Path, *, role: str) -> dict[str, Any]:
    """The parsed `adapter_config.json`, if nothing in it reaches beyond the adapter's own layers.

    Raises `ModelLoadError`, also if the weights are not safetensors, and for regular expressions
    that could take forever.
    """
    check_files(folder, role=role)
    config = read_json_object(folder / "adapter_config.json", role=role)
    if not (folder / WEIGHTS).is_file():
        raise ModelLoadError(
            f"{role}: {folder} has no adapter_model.safetensors; pickled adapters "
            "(adapter_model.bin) can run code and are not loaded. Save it again with "
            "save_pretrained()."
        )
    if (folder / "config.json").is_file() and (full := sorted(folder.glob("model*.safetensors"))):
        raise ModelLoadError(
            f"{role}: {folder} holds an adapter and a full model ({full[0].name}), so it names two "
            "models; give a folder that holds only the one that you mean"
        )
    if not _is_plain(config.get("auto_mapping")) or config.get("megatron_config"):
        raise ModelLoadError(
            f"{role}: {folder}/adapter_config.json names code to import "
            "(auto_mapping to other code than transformers', or megatron_config); remove the key"
        )
    for key, harmless in FETCHING_KEYS.items():
        if config.get(key) not in harmless:
            raise ModelLoadError(
                f"{role}: {folder}/adapter_config.json names other models under {key}: "
                f"{safe_line(str(config[key]), 80)}; what an adapter names is never fetched. If "
                "you trust them, merge it into a full model and give that folder"
            )
    _screen_effects(config, folder, role=role)
    # Of a LoRA, a pattern of its modules that may not be matched is not (`names_of_modules`).
    is_named = config.get("peft_type") == "LORA" and isinstance(config.get("target_modules"), str)
    texts = list(_module_texts({**config, "target_modules": None} if is_named else config))
    if len(texts) > max(MOST_NAMES, len(model_shapes(folder))):
        raise ModelLoadError(
            f"{role}: {folder}/adapter_config.json names modules by {len(texts):,} texts, more "
            "than its weights have tensors; give the config that belongs to the weights"
        )
    for text in texts:
        problem = pattern_problem(text)
        if problem is not None:
            raise ModelLoadError(
                f"{role}: {folder}/adapter_config.json: the pattern {safe_line(text, 80)} "
                f"{problem}; name the modules one by one"
            )
    return config


def _screen_effects(config: dict[str, Any], folder: Path, *, role: str) -> None:
    """Refuse a config that changes the base, or makes the adapter another than the named one."""
    path = f"{role}: {folder}/adapter_config.json"
    for key, effect in OTHER_MODEL_KEYS.items():
        if config.get(key):
            raise ModelLoadError(f"{path} sets {key}, {effect}. {MERGE}")
    bias, init = config.get("bias", "none"), config.get("init_lora_weights")
    if bias not in (None, "none"):
        raise ModelLoadError(
            f"{path} sets bias to {safe_line(str(bias))}: the adapter changes the base's own "
            f"weights (trained biases), so one copy cannot serve both models. {MERGE}"
        )
    name = init.lower() if isinstance(init, str) else init
    if not any(name is harmless or name == harmless for harmless in HARMLESS_INITS):
        raise ModelLoadError(
            f"{path} sets init_lora_weights to {safe_line(str(init))}: the adapter changes the "
            "base's own weights (an initialisation that takes part of them), so one copy cannot "
            f"serve both models. {MERGE}"
        )


def _module_texts(config: dict[str, Any]) -> Iterator[str]:
    """All texts by which PEFT looks for modules."""
    for key, value in config.items():
        if key == "modules_to_save" or key.endswith(MODULE_KEYS):
            yield from _texts(value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (key for key in value if isinstance(key, str))
        yield from (text for inner in value.values() for text in _texts(inner))
    elif isinstance(value, list):
        yield from (text for inner in value for text in _texts(inner))


def _is_plain(auto_mapping: object) -> bool:
    """Whether the class that an adapter without a task type names for its base is a known one.

    PEFT writes it for every such adapter; nothing is imported by it here, as the base is loaded
    already, but a name of other code than transformers' own is no accident.
    """
    if not auto_mapping:
        return True
    library = auto_mapping.get("parent_library") if isinstance(auto_mapping, dict) else None
    return isinstance(library, str) and re.fullmatch(r"transformers(\.\w+)*", library) is not None
