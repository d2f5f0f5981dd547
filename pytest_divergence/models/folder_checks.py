"""Looks at a model folder before anything of it is executed or loaded.

A model folder is a stranger's input: keys of `config.json` select code, and pickled weights run
it. Everything refused here is refused by name, with the way out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting

KNOWN_IMPLEMENTATIONS = {
    "eager",
    "sdpa",
    "flash_attention_2",
    "flash_attention_3",
    "flex_attention",
    "batched_mm",
    "grouped_mm",
}
IMPLEMENTATION_KEYS = ("_attn_implementation", "attn_implementation", "experts_implementation")
FETCHING_KEYS: dict[str, tuple[object, ...]] = {
    "adapters": (None, {}),
    "shadow_model": (None, "mirror"),
}
"""By what PEFT fetches for an adapter (X-LoRA's parts, a shadow's backbone): what fetches none."""


def screen_model_folder(folder: Path, *, role: str) -> dict[str, Any]:
    """The parsed `config.json` of a full model, once it and the files beside it are acceptable.

    Raises `ModelLoadError` where a key selects code, the model is not a causal language model of
    one stack, or the weights are not safetensors.
    """
    config = read_json_object(folder / "config.json", role=role)
    for part in _parts(config):
        _screen_config(part, folder, role=role)
    for index in sorted(folder.glob("*.safetensors.index.json")):  # no other one is read
        _screen_index(index, role=role)
    if not list(folder.glob("*.safetensors")):
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        found = f"only pickled weights ({pickled[0]})" if pickled else "no weights"
        raise ModelLoadError(
            f"{role}: {folder} holds {found}; pickles can run code, so only *.safetensors is "
            "loaded. Save the model again with save_pretrained()."
        )
    return config


def screen_adapter_folder(folder: Path, *, role: str) -> dict[str, Any]:
    """The parsed `adapter_config.json`, once the adapter's weights are safetensors."""
    config = read_json_object(folder / "adapter_config.json", role=role)
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelLoadError(
            f"{role}: {folder} has no adapter_model.safetensors; pickled adapters "
            "(adapter_model.bin) can run code and are not loaded. Save it again with "
            "save_pretrained()."
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
                f"{safe_line(str(config[key]), 80)}; what an adapter names is never fetched. Where "
                "you trust them, work it into a full model and give that folder"
            )
    return config


def check_adapter_shapes(folder: Path, base: nn.Module, *, role: str, base_name: str) -> None:
    """Raise `ModelLoadError` where the adapter's matrices do not fit the base's modules."""
    modules = dict(base.named_modules())
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
            shapes = {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(f"{role}: {folder}/adapter_model.safetensors: {error}") from error
    for key, shape in shapes.items():
        problem = _shape_problem(key, shape, modules)
        if problem is not None:
            raise ModelLoadError(
                f"{role}: the adapter {folder} does not fit {base_name}: {problem}. "
                f"Give the model that it was trained on as {setting('model_1')}."
            )


def check_no_weight_is_missing(loading_info: dict[str, Any], *, what: str) -> None:
    """Raise `ModelLoadError` where transformers found no weights for a part of a model.

    It makes them up at random and says so in its log, and random numbers would be compared.
    """
    missing = sorted(loading_info["missing_keys"])
    if missing:
        raise ModelLoadError(
            f"{what} lacks {len(missing)} weights that its architecture has, "
            f"{safe_line(missing[0])} among them, so it is not the whole model; save it again"
        )


def read_json_object(path: Path, *, role: str) -> dict[str, Any]:
    """The JSON object in a file of a model folder; anything else is a `ModelLoadError`."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelLoadError(f"{role}: {path.parent} has no readable {path.name}") from error
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{role}: {path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{role}: {path} must hold a JSON object")
    return value


def _parts(value: object) -> Iterator[dict[str, Any]]:
    """A config and the configs inside it, at any depth."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else ():
        yield from _parts(inner)


def _screen_config(config: dict[str, Any], folder: Path, *, role: str) -> None:
    for key in IMPLEMENTATION_KEYS:
        value = config.get(key)
        if value is not None and not (isinstance(value, str) and value in KNOWN_IMPLEMENTATIONS):
            raise ModelLoadError(
                f"{role}: {folder}/config.json sets {key} to {safe_line(str(value))}, which would "
                "load code; remove the key"
            )
    if config.get("transformers_weights") is not None:
        raise ModelLoadError(
            f"{role}: {folder}/config.json sets transformers_weights to "
            f"{safe_line(str(config['transformers_weights']))}, another file than those that are "
            "checked; remove the key, and call the weights model.safetensors"
        )
    if "fusion_config" in config:
        raise ModelLoadError(
            f"{role}: {folder}/config.json has fusion_config, which selects code; remove the key"
        )
    if config.get("return_dict") is False:
        raise ModelLoadError(
            f"{role}: {folder}/config.json sets return_dict to false; remove the key"
        )
    if config.get("is_encoder_decoder") is True:
        raise ModelLoadError(
            f"{role}: {folder} is an encoder-decoder model; divergence is defined here for causal "
            "language models, which predict each token from the ones before it"
        )


def _screen_index(index: Path, *, role: str) -> None:
    """Refuse an index of shards that leads to a pickle or out of the folder."""
    shards = read_json_object(index, role=role).get("weight_map")
    for name in shards.values() if isinstance(shards, dict) else ():
        text = str(name)
        if not text.endswith(".safetensors") or Path(text).name != text:
            raise ModelLoadError(
                f"{role}: {index} names {safe_line(text)}; pickles can run code, so only "
                "*.safetensors in the same folder is loaded. Save the model again with "
                "save_pretrained()."
            )


def _is_plain(auto_mapping: object) -> bool:
    """Whether the class that an adapter without a task type names for its base is a known one.

    PEFT writes it for every such adapter; nothing is imported by it here, as the base is loaded
    already, but a name of other code than transformers' own is no accident.
    """
    if not auto_mapping:
        return True
    library = auto_mapping.get("parent_library") if isinstance(auto_mapping, dict) else None
    return isinstance(library, str) and re.fullmatch(r"transformers(\.\w+)*", library) is not None


def _shape_problem(key: str, shape: list[int], modules: dict[str, nn.Module]) -> str | None:
    for part, axis, sizes in (
        (".lora_A.", 1, ("in_features", "num_embeddings")),
        (".lora_B.", 0, ("out_features", "embedding_dim")),
    ):
        if part not in key:
            continue
        name = key.removeprefix("base_model.model.").split(part)[0]
        if name not in modules:
            return f"it has no module {safe_line(name)}"
        size = next((getattr(modules[name], s) for s in sizes if hasattr(modules[name], s)), None)
        if isinstance(size, int) and size != shape[axis]:
            lora = part.strip(".")
            return f"{safe_line(name)} has {size} features, the adapter's {lora} has {shape[axis]}"
    return None
