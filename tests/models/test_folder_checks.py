"""A stranger's model folder: refused by name before anything of it runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models.adapter_checks import screen_adapter_folder
from pytest_divergence.models.folder_checks import screen_model_folder
from pytest_divergence.models.load_plan import resolve_pair
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.preflight import inspect_pair
from tests.attacks.changes import (
    ADAPTER_WEIGHTS,
    MARKER,
    MODEL,
    MODEL_WEIGHTS,
    Change,
    all_of,
    code,
    cut,
    fifo,
    holding,
    in_config,
    in_json,
    linked,
    moved,
    pickled,
    renamed,
    sharded,
    sparse,
    weights,
    without,
)

ROLE = "--model-2"
PIPE = "is not a regular file (but a pipe, socket or device), and reading it might never end"
NO_CAUSAL = "holds 1 weights that a causal language model of its config has no place for, "


def changed(
    tiny_models: Path, tmp_path: Path, source: str, change: Change = lambda folder: None
) -> Path:
    """A copy of a tiny model's folder, changed; a stranger's code would leave a marker."""
    folder = Path(shutil.copytree(tiny_models / source, tmp_path / "project" / source))
    change(folder)
    return folder


def refusal(base: Path, folder: Path) -> str:
    """What loading the folder as candidate says, in one sentence that names it."""
    with pytest.raises(ModelLoadError) as caught:
        load_model_pair(str(base), str(folder))
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, Exception)
    assert str(caught.value).startswith(f"--model-2: {folder}")
    assert "\n" not in str(caught.value)
    assert not (folder.parent.parent / MARKER).exists()
    return str(caught.value)


def with_weight(name: str) -> Change:
    """One more tensor."""
    return weights(lambda all_: {**all_, name: torch.ones(1, 32)}, MODEL_WEIGHTS)


def without_weight(name: str) -> Change:
    return weights(lambda all_: {k: v for k, v in all_.items() if k != name}, MODEL_WEIGHTS)


def with_further_template(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    os.mkfifo(folder / "additional_chat_templates/x.jinja")


def in_other_shards(name: str) -> Change:
    """An index that names one file for all, beside the weights and a pickle."""
    index = sharded(lambda one: one.update(weight_map=dict.fromkeys(one["weight_map"], name)))
    return all_of(pickled("w.bin"), index)


KEYS: list[tuple[dict[str, Any], str]] = [
    (
        {"_attn_implementation": "org/kernel"},
        '/config.json sets _attn_implementation to "org/kernel", which would load code; remove',
    ),
    ({"attn_implementation": {"": "org/kernel"}}, "which would load code"),
    ({"experts_implementation": ["org/kernel"]}, "which would load code"),
    ({"text_config": {"decoder": {"attn_implementation": "org/kernel"}}}, "would load code"),
    ({"parts": [[{"deep": [{"fusion_config": {}}]}]]}, "has fusion_config, which selects code"),
    ({"return_dict": False}, "sets return_dict to false; remove the key"),
    (
        {"transformers_weights": "sub/w.safetensors.index.json"},
        'sets transformers_weights to "sub/w.safetensors.index.json", another file than those',
    ),
    ({"is_encoder_decoder": True}, "is an encoder-decoder model; divergence is defined here"),
    (
        {"model_type": "nobody-knows", "auto_map": {"AutoModelForCausalLM": "evil.Model"}},
        "cannot be loaded: ValueError:",
    ),
    ({"num_labels": 10**9}, 'sets "num_labels" to 1e+09, and at most 100,000 is accepted'),
    ({"text_config": [{"num_hidden_layers": 10**6}]}, "and at most 1,000 is accepted"),
    ({"num_hidden_layers": 200}, "sets num_hidden_layers to 200, but its files hold 21 tensors"),
    ({"vocab_size": 10**9}, "has a config.json that describes a model of 6.4e+10 numbers"),
    ({"num_hidden_layers": 20}, "has a config.json that describes a model of"),
    ({"__deepcopy__": 7}, " cannot be loaded: TypeError: "),
    ({"__reduce_ex__": 7}, " cannot be loaded: TypeError: "),
]
FILES: dict[str, tuple[Change, str]] = {
    "a pipe": (fifo(MODEL), f"/config.json {PIPE}; remove it from the folder"),
    "a device": (linked(MODEL_WEIGHTS, "/dev/zero"), f"/model.safetensors {PIPE}"),
    "a file of the system": (linked("zz.safetensors", "/proc/kmsg"), f"/zz.safetensors {PIPE}"),
    "a pipe among further templates": (with_further_template, "x.jinja is not a regular file"),
    "a huge config": (
        sparse(MODEL, 20 << 30),
        "config.json has 21 GB, and the limit for such a file is 17 MB",
    ),
    "a link to nowhere": (
        linked("zz.safetensors", "nowhere"),
        "/zz.safetensors is a link to a missing file; remove it from the folder, or restore the",
    ),
    "no config": (without(MODEL), "has no readable config.json"),
    "half a config": (holding(MODEL, "{"), "is not valid JSON: "),
    "a list": (holding(MODEL, "[1]"), "must hold a JSON object"),
    "a deep config": (holding(MODEL, "[" * 100_000), "is not valid JSON: "),
    "no tokenizer": (holding("tokenizer.json", "garbage"), " cannot be loaded: "),
    "a reward model's head": (
        with_weight("score.weight"),
        f'{NO_CAUSAL}"score.weight" among them: a head of another kind (reward',
    ),
    "a layer more": (with_weight("model.layers.2.x"), NO_CAUSAL),
    "another shape": (
        weights(
            lambda all_: {**all_, "lm_head.weight": all_["lm_head.weight"][:, :16]}, MODEL_WEIGHTS
        ),
        " cannot be loaded: ",
    ),
    # Transformers would take random numbers for it, other ones at each start.
    "a weight less": (
        without_weight("model.layers.0.mlp.up_proj.weight"),
        "lacks 1 weights that its architecture has, "
        '"model.layers.0.mlp.up_proj.weight" among them, so the model is incomplete; save it',
    ),
    "no weights": (without(MODEL_WEIGHTS), "holds no weights; "),
    "pickled weights": (
        all_of(without(MODEL_WEIGHTS), pickled("pytorch_model.bin")),
        " holds only pickled weights (pytorch_model.bin); pickles can run code, so only "
        "*.safetensors is loaded. Save the model again with save_pretrained().",
    ),
    "pickled weights beside others": (
        all_of(moved(MODEL_WEIGHTS, "other.safetensors"), pickled("pytorch_model.bin")),
        "cannot be loaded: OSError",
    ),
    "an index that leads to a pickle": (
        in_other_shards("w.bin"),
        'model.safetensors.index.json names "w.bin"; pickles can run code',
    ),
    "an index that leads out of the folder": (
        in_other_shards("../other/model.safetensors"),
        'model.safetensors.index.json names "../other/model.safetensors"; pickles can run code',
    ),
    "cut weights": (cut(MODEL_WEIGHTS, 1000), " cannot be loaded"),
    "a file that hides how large the model is": (
        all_of(in_json(MODEL, vocab_size=10**9), holding("zz.safetensors", "garbage")),
        " cannot be loaded: zz.safetensors: Safetens",
    ),
}
ADAPTERS: dict[str, tuple[Change, str]] = {
    "a pipe": (fifo("README.md"), "README.md is not a regular file"),
    "a pickle": (
        all_of(without(ADAPTER_WEIGHTS), pickled("adapter_model.bin")),
        " has no adapter_model.safetensors; pickled adapters (adapter_model.bin) can run code "
        "and are not loaded. Save it again with save_pretrained().",
    ),
    "broken": (holding(ADAPTER_WEIGHTS, b"\xff" * 64), "/adapter_model.safetensors: "),
    "code": (
        in_config(auto_mapping={"parent_library": "evil", "base_model_class": "Model"}),
        "adapter_config.json names code to import",
    ),
    "code of megatron": (in_config(megatron_config={"a": 1}), "names code to import"),
    # PEFT would fetch them, and the pickles among them.
    "parts": (
        in_config(adapters={"0": "evil/part"}),
        "names other models under adapters: \"{'0': 'evil/part'}\"; what an adapter names is never",
    ),
    "a shadow": (in_config(shadow_model="evil/part"), "names other models under shadow_model: "),
}


def test_an_ordinary_folder_passes(tiny_models: Path, tmp_path: Path) -> None:
    assert screen_model_folder(tiny_models / "base", role=ROLE)["model_type"] == "llama"
    assert screen_adapter_folder(tiny_models / "adapter", role=ROLE)["peft_type"] == "LORA"
    folder = changed(tiny_models, tmp_path, "base")
    for implementation in ("eager", "sdpa", None):
        in_json(MODEL, _attn_implementation=implementation)(folder)
        screen_model_folder(folder, role=ROLE)


@pytest.mark.parametrize(("values", "said"), KEYS, ids=lambda one: str(one)[:50])
def test_a_config_that_selects_code_or_cannot_work_is_refused(
    tiny_models: Path, tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    change = all_of(code("evil.py"), in_json(MODEL, **values))

    folder = changed(tiny_models, tmp_path, "base", change)

    assert said in refusal(tiny_models / "base", folder)


@pytest.mark.parametrize(("change", "said"), FILES.values(), ids=FILES)
def test_a_folder_with_what_is_not_a_models_is_refused(
    tiny_models: Path, tmp_path: Path, change: Change, said: str
) -> None:
    folder = changed(tiny_models, tmp_path, "base", change)

    assert said in refusal(tiny_models / "base", folder)


@pytest.mark.parametrize(("change", "said"), ADAPTERS.values(), ids=ADAPTERS)
def test_an_adapter_that_reaches_elsewhere_is_refused(
    tiny_models: Path, tmp_path: Path, change: Change, said: str
) -> None:
    folder = changed(tiny_models, tmp_path, "adapter", change)

    assert said in refusal(tiny_models / "base", folder)


def test_a_look_at_the_files_alone_says_the_same(tiny_models: Path, tmp_path: Path) -> None:
    change = in_json(MODEL, vocab_size=10**9)
    folder = changed(tiny_models, tmp_path, "base", change)

    with pytest.raises(ModelLoadError) as looked:
        list(inspect_pair(resolve_pair(str(tiny_models / "base"), str(folder))))
    assert str(looked.value) == refusal(tiny_models / "base", folder)


def test_the_numbers_of_no_family_are_out_of_proportion(tiny_models: Path, tmp_path: Path) -> None:
    folder = changed(tiny_models, tmp_path, "base")
    many = {f"layer.{number}": torch.zeros(1) for number in range(1000)}
    save_file(many, folder / "model.safetensors")
    published: dict[str, dict[str, Any]] = {
        "lfm2": {"block_ff_dim": 12_288},  # of LFM2 1.2B
        "qwen2_moe": {"shared_expert_intermediate_size": 20_480},  # of Qwen2 57B-A14B
    }
    told = 0

    for family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = CONFIG_MAPPING[family](**published.get(family, {}))
        except StrictDataclassClassValidationError:  # it has no numbers of its own
            continue
        numbers = config.to_json_string(use_diff=False).replace('encoder_decoder": true', 'x": 1')
        in_json(MODEL, text_config=json.loads(numbers))(folder)
        screen_model_folder(folder, role=ROLE)
        told += 1

    assert told > 100


PASSING: dict[str, Change] = {
    "an end of answers that is no token": in_json("generation_config.json", eos_token_id={"a": 1}),
    "an end of answers of lists": in_json("generation_config.json", eos_token_id=[[2], 2]),
    "buffers of an old checkpoint": weights(
        lambda all_: {**all_, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)},
        MODEL_WEIGHTS,
    ),
    "code for a known model type": all_of(
        code("evil.py"), in_json(MODEL, auto_map={"AutoModelForCausalLM": "evil.Model"})
    ),
    # Many models on the Hub hold both, and only the indices are downloaded with both.
    "an index of pickles": all_of(
        pickled("pytorch_model-00001-of-00002.bin"),
        holding(
            "pytorch_model.bin.index.json",
            json.dumps({"weight_map": {"lm_head.weight": "pytorch_model-00001-of-00002.bin"}}),
        ),
    ),
}


@pytest.mark.parametrize("change", PASSING.values(), ids=PASSING)
def test_what_is_left_alone_is_no_error(tiny_models: Path, tmp_path: Path, change: Change) -> None:
    folder = changed(tiny_models, tmp_path, "ft", change)

    load_model_pair(str(tiny_models / "base"), str(folder))

    assert not (tmp_path / MARKER).exists()


def test_links_to_files_are_as_good_as_files(tiny_models: Path, tmp_path: Path) -> None:
    """The Hub's cache is made of them."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for blob in (tiny_models / "ft").iterdir():
        (folder / blob.name).symlink_to(blob)
    (folder / "nowhere.txt").symlink_to(tmp_path / "nowhere")

    load_model_pair(str(tiny_models / "base"), str(folder))


def test_hostile_text_of_a_file_is_harmless_in_the_error(tiny_models: Path, tmp_path: Path) -> None:
    hostile = "x\x1b[31m\x00y"
    model = in_json(MODEL, model_type=hostile)
    adapter = all_of(
        in_config(base_model_name_or_path=hostile),
        renamed(lambda name: name.replace("layers.0", "layers.\x1b9")),
    )

    for source, change in (("base", model), ("adapter", adapter)):
        folder = changed(tiny_models, tmp_path, source, change)
        with pytest.raises(ModelLoadError) as caught:
            load_model_pair(str(tiny_models / "base"), str(folder))
        assert "x1b" in str(caught.value) or "u{1b}" in str(caught.value)
        assert str(caught.value).isprintable()
