"""Checks of a model folder, made before anything in it is executed or loaded.

A model folder is untrusted input: keys of `config.json` select code, and pickled weights run
it. Every refusal names what is wrong and how to fix it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line, visible
from pytest_divergence.models.folder_files import check_files, read_json_object, stored_shapes
from pytest_divergence.models.text_models import is_in_part

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
MOST = {
    **dict.fromkeys(("layer", "layers", "block", "blocks", "stages"), 1_000),
    **dict.fromkeys(("head", "heads", "groups", "codebooks"), 10_000),
    **dict.fromkeys(("expert", "experts"), 50_000),
    **dict.fromkeys(("label", "labels"), 100_000),
}
"""Largest number that a key of a config may have, by a word of the key: each creates objects.

Several times what the largest known models have. Keys that create tensors are compared with the
tensors in the files (`pytest_divergence.models.skeletons`).
"""
WIDTHS = {"dim", "size"}
"""Words of keys that tell a tensor's width, whatever else is in the key: "block_ff_dim"."""
LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")


def screen_model_folder(folder: Path, *, role: str) -> dict[str, Any]:
    """The parsed `config.json` of a full model, if it and the files beside it are acceptable.

    Raises `ModelLoadError` if a key selects code, the model is not a causal language model of
    one stack, a number is far too large, or the weights are not safetensors.
    """
    check_files(folder, role=role)
    config = read_json_object(folder / "config.json", role=role)
    num_tensors = _num_tensors(folder, role=role)
    for part in _parts(config):
        _screen_config(part, folder, role=role)
        _screen_numbers(part, folder, num_tensors, role=role)
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


def check_all_is_loaded(
    loading_info: dict[str, Any], *, what: str, parts_left_out: tuple[str, ...] = ()
) -> None:
    """Raise `ModelLoadError` if transformers left weights out, or initialised any at random.

    Modules in `parts_left_out` are left out on purpose: they take in no text, or no answer.

    It only logs that. Random weights would be compared, and weights that it left out (a reward
    model's head, layers after the last) are part of the model that was named. Weights that an
    architecture declares unused are in none of its lists.
    """
    missing = sorted(loading_info["missing_keys"])
    if missing:
        raise ModelLoadError(
            f"{what} lacks {len(missing)} weights that its architecture has, "
            f"{safe_line(missing[0])} among them, so the model is incomplete; save it again"
        )
    unexpected = sorted(
        key for key in loading_info["unexpected_keys"] if not is_in_part(key, parts_left_out)
    )
    if unexpected:
        raise ModelLoadError(
            f"{what} holds {len(unexpected)} weights that a causal language model of its config "
            f"has no place for, {safe_line(unexpected[0])} among them: a head of another kind "
            "(reward, value, classification), or more layers than config.json says. They would be "
            "left out of the comparison; save the causal language model alone"
        )
    for key, stored, wanted in sorted(loading_info["mismatched_keys"]):
        raise ModelLoadError(
            f"{what}: {safe_line(key)} has the shape {tuple(stored)}, and config.json asks for "
            f"{tuple(wanted)}; save it again"
        )


def _num_tensors(folder: Path, *, role: str) -> int:
    """Number of tensors in a folder's files, each of which must have a readable header."""
    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            count += len(stored_shapes(path))
        except (SafetensorError, OSError, MemoryError) as error:
            raise ModelLoadError(
                f"{role}: {folder} cannot be loaded: {visible(path.name, 200)}: "
                f"{type(error).__name__}: {safe_line(str(error))}; save the model again, or take "
                "the file out of the folder"
            ) from error
    return count


def _parts(value: object) -> Iterator[dict[str, Any]]:
    """A config and the configs inside it, at any depth."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
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


def _screen_numbers(config: dict[str, Any], folder: Path, num_tensors: int, *, role: str) -> None:
    """Refuse numbers with which a model would take all time and memory before loading a weight."""
    for key, value in config.items():
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        words = key.split("_")
        most = min((MOST[word] for word in words if word in MOST), default=value)
        if value > most and WIDTHS.isdisjoint(words):
            shown = f"{value:.4g}" if value < 1e300 else "a number of more than 300 digits"
            raise ModelLoadError(
                f"{role}: {folder}/config.json sets {safe_line(key)} to {shown}, and at "
                f"most {most:,} is accepted; give the model's own config"
            )
        if key in LAYERS and 0 < num_tensors < value:
            raise ModelLoadError(
                f"{role}: {folder}/config.json sets {key} to {value:,}, but its files hold "
                f"{num_tensors:,} tensors, fewer than one for each layer; give the config that "
                "belongs to the weights"
            )


def _screen_index(index: Path, *, role: str) -> None:
    """Refuse an index of shards that names a pickle or a file outside the folder."""
    shards = read_json_object(index, role=role).get("weight_map")
    for name in shards.values() if isinstance(shards, dict) else ():
        text = str(name)
        if not text.endswith(".safetensors") or Path(text).name != text:
            raise ModelLoadError(
                f"{role}: {index} names {safe_line(text)}; pickles can run code, so only "
                "*.safetensors in the same folder is loaded. Save the model again with "
                "save_pretrained()."
            )
