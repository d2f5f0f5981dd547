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
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models.adapter_checks import screen_adapter_folder
from pytest_divergence.models.folder_checks import screen_model_folder
from pytest_divergence.models.load_plan import resolve_pair
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.preflight import inspect_pair

ROLE = "--model-2"


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def copied(tiny_models: Path, name: str, folder: Path) -> Path:
    return Path(shutil.copytree(tiny_models / name, folder / name))


def with_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def refusal(base: Path, folder: Path) -> str:
    """What loading the folder as candidate says."""
    with pytest.raises(ModelLoadError) as caught:
        load_model_pair(str(base), str(folder))
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, Exception)
    return str(caught.value)


def test_an_ordinary_folder_passes(tiny_models: Path) -> None:
    assert screen_model_folder(tiny_models / "base", role=ROLE)["model_type"] == "llama"
    assert screen_adapter_folder(tiny_models / "adapter", role=ROLE)["peft_type"] == "LORA"


@pytest.mark.parametrize("implementation", ["eager", "sdpa", None])
def test_known_implementations_pass(
    tiny_models: Path, tmp_path: Path, implementation: str | None
) -> None:
    folder = copied(tiny_models, "base", tmp_path)

    screen_model_folder(with_config(folder, _attn_implementation=implementation), role=ROLE)


@pytest.mark.parametrize(
    "key", ["_attn_implementation", "attn_implementation", "experts_implementation"]
)
@pytest.mark.parametrize("value", ["org/kernel", {"": "org/kernel"}, ["org/kernel"], 7])
def test_a_key_that_would_load_code_is_refused(
    tiny_models: Path, tmp_path: Path, key: str, value: object
) -> None:
    folder = with_config(copied(tiny_models, "base", tmp_path), **{key: value})

    message = refusal(tiny_models / "base", folder)

    assert message.startswith(f"--model-2: {folder}/config.json sets {key} to ")
    assert message.endswith(", which would load code; remove the key")


def test_a_key_that_would_load_code_is_found_at_any_depth(
    tiny_models: Path, tmp_path: Path
) -> None:
    inner = {"text_config": {"decoder": {"attn_implementation": "org/kernel"}}}
    folder = with_config(copied(tiny_models, "base", tmp_path), **inner)

    assert "sets attn_implementation to" in refusal(tiny_models / "base", folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fusion_config": {}}, "has fusion_config, which selects code; remove the key"),
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
    ],
)
def test_a_config_that_cannot_work_is_refused(
    tiny_models: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    folder = with_config(copied(tiny_models, "base", tmp_path), **changes)
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'marker')!r})")

    message = refusal(tiny_models / "base", folder)

    assert message.startswith(f"--model-2: {folder}")
    assert reason in message
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "inner",
    [
        {"layers": [{"_attn_implementation": "org/kernel"}]},
        {"parts": [[{"deep": [{"fusion_config": {}}]}]]},
        {"text_config": [{"num_labels": 10**9}]},
    ],
)
def test_what_is_refused_is_found_inside_lists(
    tiny_models: Path, tmp_path: Path, inner: dict[str, Any]
) -> None:
    folder = with_config(copied(tiny_models, "base", tmp_path), **inner)

    with pytest.raises(ModelLoadError):
        screen_model_folder(folder, role=ROLE)


def test_the_numbers_of_no_family_are_out_of_proportion(tiny_models: Path, tmp_path: Path) -> None:
    folder = copied(tiny_models, "base", tmp_path)
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
        with_config(folder, text_config=json.loads(numbers))
        screen_model_folder(folder, role=ROLE)
        told += 1

    assert told > 100


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_labels": 10**9}, 'sets "num_labels" to 1e+09, and at most 100,000 is accepted'),
        ({"num_hidden_layers": 10**6}, "and at most 1,000 is accepted"),
        (
            {"num_hidden_layers": 200},
            "sets num_hidden_layers to 200, but its files hold 21 tensors",
        ),
        ({"num_attention_heads": 10**9}, "and at most 10,000 is accepted"),
        ({"num_experts": 10**7}, "and at most 50,000 is accepted"),
        ({"text_config": {"num_hidden_layers": 10**6}}, "and at most 1,000 is accepted"),
        ({"vocab_size": 10**9}, "has a config.json that describes a model of 6.4e+10 numbers"),
        ({"intermediate_size": 10**8}, "has a config.json that describes a model of"),
        ({"num_hidden_layers": 20}, "has a config.json that describes a model of"),
    ],
)
def test_a_number_out_of_all_proportion_is_refused_at_once(
    tiny_models: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    folder = with_config(copied(tiny_models, "base", tmp_path), **changes)

    message = refusal(tiny_models / "base", folder)

    assert message.startswith(f"--model-2: {folder}")
    assert said in message
    with pytest.raises(ModelLoadError) as looked:
        list(inspect_pair(resolve_pair(str(tiny_models / "base"), str(folder))))
    assert str(looked.value) == message


@pytest.mark.parametrize("changes", [{"__deepcopy__": 7}, {"__reduce_ex__": 7}])
def test_a_key_called_like_a_method_is_one_clear_error(
    tiny_models: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = with_config(copied(tiny_models, "base", tmp_path), **changes)

    message = refusal(tiny_models / "base", folder)

    assert message.startswith(f"--model-2: {folder} cannot be loaded: TypeError: ")
    with pytest.raises(ModelLoadError):
        list(inspect_pair(resolve_pair(str(tiny_models / "base"), str(folder))))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def endless(path: Path) -> None:
    path.symlink_to("/proc/kmsg")


@pytest.mark.parametrize("kind", [pipe, device, endless])
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "zz.safetensors",
        "tokenizer.json",
        "generation_config.json",
    ],
)
def test_what_can_be_read_for_ever_is_refused(
    tiny_models: Path, tmp_path: Path, name: str, kind: Any
) -> None:
    folder = copied(tiny_models, "base", tmp_path)
    (folder / name).unlink(missing_ok=True)
    kind(folder / name)

    assert refusal(tiny_models / "base", folder) == (
        f"--model-2: {folder / name} is not a regular file (but a pipe, socket or device), and "
        "reading it might never end; remove it from the folder"
    )


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "zz.safetensors", "README.md"])
def test_a_pipe_in_an_adapters_folder_is_refused(
    tiny_models: Path, tmp_path: Path, name: str
) -> None:
    folder = copied(tiny_models, "adapter", tmp_path)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)

    assert f"{name} is not a regular file" in refusal(tiny_models / "base", folder)


def test_a_pipe_among_further_templates_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    folder = copied(tiny_models, "base", tmp_path)
    (folder / "additional_chat_templates").mkdir()
    os.mkfifo(folder / "additional_chat_templates/x.jinja")

    assert "x.jinja is not a regular file" in refusal(tiny_models / "base", folder)


def test_a_config_that_would_fill_memory_is_not_read(tiny_models: Path, tmp_path: Path) -> None:
    folder = copied(tiny_models, "base", tmp_path)
    with (folder / "config.json").open("r+b") as stream:
        stream.truncate(20 * 2**30)  # a file with a hole: no disk is used

    assert "config.json has 21 GB, and the limit for such a file is 17 MB" in refusal(
        tiny_models / "base", folder
    )


def test_links_to_files_are_as_good_as_files(tiny_models: Path, tmp_path: Path) -> None:
    """The Hub's cache is made of them."""
    blobs, folder = copied(tiny_models, "ft", tmp_path), tmp_path / "snapshot"
    folder.mkdir()
    for blob in blobs.iterdir():
        (folder / blob.name).symlink_to(blob)
    (folder / "nowhere.txt").symlink_to(tmp_path / "nowhere")

    load_model_pair(str(tiny_models / "base"), str(folder))


def test_weights_behind_a_link_to_nowhere_are_refused(tiny_models: Path, tmp_path: Path) -> None:
    folder = copied(tiny_models, "ft", tmp_path)
    (folder / "zz.safetensors").symlink_to("nowhere")

    assert refusal(tiny_models / "base", folder) == (
        f"--model-2: {folder}/zz.safetensors is a link to a missing file; remove it from the "
        "folder, or restore the file that it names"
    )


@pytest.mark.parametrize("end", [{"a": 1}, [[2], 2], "x"])
def test_an_end_of_answers_that_is_no_token_is_left_out(
    tiny_models: Path, tmp_path: Path, end: object
) -> None:
    folder = copied(tiny_models, "ft", tmp_path)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": end}))

    load_model_pair(str(tiny_models / "base"), str(folder))


def test_a_tokenizer_that_is_none_is_one_clear_error(tiny_models: Path, tmp_path: Path) -> None:
    folder = copied(tiny_models, "base", tmp_path)
    (folder / "tokenizer.json").write_text("garbage")

    message = refusal(tiny_models / "base", folder)

    assert message.startswith(f"--model-2: {folder} cannot be loaded: ")
    assert "\n" not in message


@pytest.mark.parametrize("name", ["score.weight", "v_head.summary.weight", "model.layers.2.x"])
def test_a_weight_that_has_no_place_is_refused(
    tiny_models: Path, tmp_path: Path, name: str
) -> None:
    """A reward model's head would be left out, and the rest be compared as if it were whole."""
    folder = copied(tiny_models, "ft", tmp_path)
    weights = {**load_file(folder / "model.safetensors"), name: torch.ones(1, 32)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    message = refusal(tiny_models / "base", folder)

    assert message.startswith(f"--model-2: {folder} holds 1 weights that a causal language model")
    assert f'has no place for, "{name}" among them: a head of another kind (reward' in message


def test_a_weight_of_another_shape_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    folder = copied(tiny_models, "ft", tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"][:, :16].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    assert f"--model-2: {folder} cannot be loaded: " in refusal(tiny_models / "base", folder)


def test_buffers_of_old_checkpoints_are_no_weights(tiny_models: Path, tmp_path: Path) -> None:
    folder = copied(tiny_models, "ft", tmp_path)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    weights = {**load_file(folder / "model.safetensors"), name: torch.ones(8)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    load_model_pair(str(tiny_models / "base"), str(folder))


def test_code_for_a_known_model_type_is_left_alone(tiny_models: Path, tmp_path: Path) -> None:
    folder = copied(tiny_models, "base", tmp_path)
    with_config(folder, auto_map={"AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'marker')!r})")

    load_model_pair(str(tiny_models / "base"), str(folder))

    assert not (tmp_path / "marker").exists()


def test_pickled_weights_are_refused_and_never_opened(tiny_models: Path, tmp_path: Path) -> None:
    folder = copied(tiny_models, "base", tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"w": Payload(tmp_path / "marker")}, folder / "pytorch_model.bin")

    assert refusal(tiny_models / "base", folder) == (
        f"--model-2: {folder} holds only pickled weights (pytorch_model.bin); pickles can run "
        "code, so only *.safetensors is loaded. Save the model again with save_pretrained()."
    )
    assert not (tmp_path / "marker").exists()


def test_pickled_weights_beside_an_unrelated_safetensors_file_are_refused(
    tiny_models: Path, tmp_path: Path
) -> None:
    folder = copied(tiny_models, "base", tmp_path)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    torch.save({"w": Payload(tmp_path / "marker")}, folder / "pytorch_model.bin")

    assert "cannot be loaded: OSError" in refusal(tiny_models / "base", folder)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("shard", ["w.bin", "../other/model.safetensors", "/tmp/m.safetensors"])
def test_an_index_that_leads_to_a_pickle_or_out_of_the_folder_is_refused(
    tiny_models: Path, tmp_path: Path, shard: str
) -> None:
    folder = copied(tiny_models, "base", tmp_path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    torch.save(weights, folder / "w.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    message = refusal(tiny_models / "base", folder)

    assert f'model.safetensors.index.json names "{shard}"; pickles can run code' in message


def test_an_index_of_pickles_beside_safetensors_is_not_read(
    tiny_models: Path, tmp_path: Path
) -> None:
    """Many models on the Hub hold both, and only the indices are downloaded with both."""
    folder = copied(tiny_models, "base", tmp_path)
    index = {"weight_map": {"lm_head.weight": "pytorch_model-00001-of-00002.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    torch.save({"w": Payload(tmp_path / "marker")}, folder / "pytorch_model-00001-of-00002.bin")

    load_model_pair(str(tiny_models / "base"), str(folder))

    assert not (tmp_path / "marker").exists()


def test_a_model_of_which_a_weight_is_missing_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    """Transformers would take random numbers for it, other ones at each start."""
    folder = copied(tiny_models, "base", tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    assert refusal(tiny_models / "base", folder) == (
        f"--model-2: {folder} lacks 1 weights that its architecture has, "
        '"model.layers.0.mlp.up_proj.weight" among them, so the model is incomplete; save it '
        "again"
    )


def test_a_folder_without_weights_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    folder = copied(tiny_models, "base", tmp_path)
    (folder / "model.safetensors").unlink()

    assert f"{folder} holds no weights; " in refusal(tiny_models / "base", folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "has no readable config.json"),
        ("{", "is not valid JSON: "),
        ("[1]", "must hold a JSON object"),
        ("[" * 100_000, "is not valid JSON: "),
    ],
)
def test_a_config_that_is_no_json_object_is_refused(
    tiny_models: Path, tmp_path: Path, content: str | None, reason: str
) -> None:
    folder = copied(tiny_models, "base", tmp_path)
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)

    message = refusal(tiny_models / "base", folder)

    assert message.startswith(f"--model-2: {folder}")
    assert reason in message


def test_truncated_weights_are_a_load_error(tiny_models: Path, tmp_path: Path) -> None:
    folder = copied(tiny_models, "base", tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    assert refusal(tiny_models / "base", folder).startswith(f"--model-2: {folder} cannot be loaded")


def test_a_file_beside_the_weights_does_not_hide_how_large_the_model_is(
    tiny_models: Path, tmp_path: Path
) -> None:
    folder = with_config(copied(tiny_models, "base", tmp_path), vocab_size=10**9)
    (folder / "zz.safetensors").write_text("garbage")

    message = refusal(tiny_models / "base", folder)

    assert message.startswith(f"--model-2: {folder} cannot be loaded: zz.safetensors: Safetens")
    assert message.endswith("; save the model again, or take the file out of the folder")


def test_hostile_text_of_a_file_is_harmless_in_the_error(tiny_models: Path, tmp_path: Path) -> None:
    hostile = "x\x1b[31m\x00y"
    folder = with_config(copied(tiny_models, "base", tmp_path), model_type=hostile)
    adapter = copied(tiny_models, "adapter", tmp_path)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = hostile
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    weights = load_file(adapter / "adapter_model.safetensors")
    renamed = {name.replace("layers.0", "layers.\x1b9"): value for name, value in weights.items()}
    save_file(renamed, adapter / "adapter_model.safetensors")

    for message in (
        refusal(tiny_models / "base", folder),
        refusal(tiny_models / "base", adapter),
    ):
        assert "x1b" in message or "u{1b}" in message
        assert "\x1b" not in message
        assert "\x00" not in message


def test_a_pickled_adapter_is_refused_and_never_opened(tiny_models: Path, tmp_path: Path) -> None:
    folder = copied(tiny_models, "adapter", tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"w": Payload(tmp_path / "marker")}, folder / "adapter_model.bin")

    assert refusal(tiny_models / "base", folder) == (
        f"--model-2: {folder} has no adapter_model.safetensors; pickled adapters "
        "(adapter_model.bin) can run code and are not loaded. Save it again with save_pretrained()."
    )
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("key", ["auto_mapping", "megatron_config"])
def test_an_adapter_that_names_code_is_refused(tiny_models: Path, tmp_path: Path, key: str) -> None:
    folder = copied(tiny_models, "adapter", tmp_path)
    path = folder / "adapter_config.json"
    value = {"parent_library": "evil", "base_model_class": "Model"}
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    assert "adapter_config.json names code to import" in refusal(tiny_models / "base", folder)


@pytest.mark.parametrize(
    ("key", "value"), [("adapters", {"0": "evil/part"}), ("shadow_model", "evil/part")]
)
def test_an_adapter_that_names_other_models_is_refused(
    tiny_models: Path, tmp_path: Path, key: str, value: object
) -> None:
    """PEFT would fetch them, and the pickles among them."""
    folder = copied(tiny_models, "adapter", tmp_path)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    message = refusal(tiny_models / "base", folder)

    assert f"names other models under {key}: " in message
    assert "evil/part" in message
    assert "what an adapter names is never fetched" in message


def test_a_broken_adapter_file_is_a_load_error(tiny_models: Path, tmp_path: Path) -> None:
    folder = copied(tiny_models, "adapter", tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 64)

    assert f"--model-2: {folder}/adapter_model.safetensors: " in refusal(
        tiny_models / "base", folder
    )
