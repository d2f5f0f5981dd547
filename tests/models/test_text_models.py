"""Checkpoints that take in more than text, as their own classes save them: read for text alone."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Llama4Config,
    Llama4ForCausalLM,
    Llama4ForConditionalGeneration,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models.adapter_checks import WEIGHTS
from pytest_divergence.models.load_plan import LoadOptions, resolve_pair
from pytest_divergence.models.preflight import inspect_pair
from pytest_divergence.models.transformers_log import quiet_transformers
from tests.models.test_kinds import check_trains, load, refusal, values
from tests.models_in_memory import SMALL, local
from tests.tiny import tiny_tokenizer

NUM_TOKENS = len(tiny_tokenizer())
IMAGE = NUM_TOKENS
"""What stands for an image in the text: no token of the tokenizer."""
TEXT: dict[str, Any] = {**SMALL, "max_position_embeddings": 2048}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 32,
}
QWEN_TOKENS: dict[str, Any] = {
    name: IMAGE + place
    for place, name in enumerate(
        ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    )
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
SECTIONS = {"rope_parameters": {**ROPE, "mrope_section": [2, 3, 3]}}


@dataclass(frozen=True)
class Family:
    """How a tiny checkpoint is made, and its text alone."""

    whole: Callable[[], Any]
    """The model with its encoders."""
    text: Callable[[Any], Any]
    """From the whole model's text config: a model of text of its own class."""

    def export(self, whole: Any) -> PreTrainedModel:
        """The whole model's text, with its weights."""
        decoder = whole.get_decoder()
        config = copy.deepcopy(whole.config.get_text_config())
        config.tie_word_embeddings = whole.config.tie_word_embeddings
        model = self.text(config)
        decoder = getattr(decoder, "model", decoder)
        model.model.load_state_dict(decoder.state_dict())
        model.lm_head.load_state_dict(whole.get_output_embeddings().state_dict())
        found: PreTrainedModel = model
        return found


def gemma3() -> Any:
    text = {**TEXT, "sliding_window": 64}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text,
            vision_config=VISION,
            mm_tokens_per_image=4,
            image_token_index=IMAGE,
        )
    )


def gemma4() -> Any:
    text = {
        **TEXT,
        "vocab_size_per_layer_input": NUM_TOKENS,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 0,
        "global_head_dim": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    tokens: dict[str, Any] = {"image_token_id": IMAGE, "video_token_id": IMAGE + 1}
    return transformers.Gemma4ForConditionalGeneration(
        transformers.Gemma4Config(
            text_config=text,
            vision_config={**vision, **heads, "global_head_dim": 16},
            audio_config=None,
            **tokens,
        )
    )


def qwen3_vl() -> Any:
    vision = {**QWEN_VISION, "deepstack_visual_indexes": [0]}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=TEXT | SECTIONS, vision_config=vision, **QWEN_TOKENS)
    )


def llama4() -> Any:
    text = {**TEXT, "intermediate_size_mlp": 64, "num_local_experts": 2}
    sizes = ("projector_input_dim", "projector_output_dim", "vision_output_dim")
    return Llama4ForConditionalGeneration(
        Llama4Config(
            text_config={**text, "interleave_moe_layer_step": 2},
            vision_config={**VISION, **dict.fromkeys(sizes, 32)},
            image_token_index=IMAGE,
        )
    )


def plain_qwen3(text: Any) -> Any:
    """Of a class that knows no images: the three positions of a token of text are one number."""
    names = (*TEXT, "rms_norm_eps", "tie_word_embeddings")
    sizes = {name: getattr(text, name) for name in names if hasattr(text, name)}
    return Qwen3ForCausalLM(Qwen3Config(**sizes, rope_parameters=ROPE))


# Weights whose names changed; three positions a token; below, a second class of text, and
# embeddings for each layer.
FAMILIES = {
    "gemma3": Family(gemma3, Gemma3ForCausalLM),
    "qwen3_vl": Family(qwen3_vl, plain_qwen3),
}


with suppress(AttributeError):  # the oldest one cannot build it
    llama4()
    FAMILIES["llama4"] = Family(llama4, Llama4ForCausalLM)
if hasattr(transformers, "Gemma4Config"):  # not yet in the oldest one
    FAMILIES["gemma4"] = Family(gemma4, transformers.Gemma4ForCausalLM)


def save(model: Any, folder: Path) -> Path:
    with quiet_transformers():
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def perturb(model: Any) -> Any:
    torch.manual_seed(1)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.add_(torch.randn_like(weight) * weight.std() * 0.3)
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base` and `ft` with their encoders, and their text alone as `base-text` and `ft-text`."""
    made = tmp_path_factory.mktemp("checkpoints") / str(request.param)
    family = FAMILIES[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = family.whole().float()
        for name in ("base", "ft"):
            save(model, made / name)
            save(family.export(model), made / f"{name}-text")
            perturb(model)
    return made


def test_a_checkpoint_is_its_text_and_nothing_else_is_in_memory_or_counted(folders: Path) -> None:
    pair, text_pair = (
        load(folders / f"base{kind}", folders / f"ft{kind}") for kind in ("", "-text")
    )
    whole, text = (
        resolve_pair(str(folders / f"base{kind}"), str(folders / f"ft{kind}"))
        for kind in ("", "-text")
    )

    expected = values(text_pair)
    assert min(expected) > 0.01
    assert values(pair) == pytest.approx(expected, abs=1e-5)
    assert max(map(abs, values(load(folders / "base", folders / "base-text")))) < 1e-6
    model: Any = local(pair.reference).model
    encoders = ("vision_tower", "vision_model", "visual")
    assert not [
        name for name, _ in model.named_parameters() if not {*name.split(".")}.isdisjoint(encoders)
    ]
    assert whole.weights == text.weights
    assert whole.reference.parts_left_out
    assert text.reference.parts_left_out == ()
    if folders.name == "gemma3":  # Gemma 4 looks a second embedding up by token
        check_trains(pair)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save(gemma3().float(), tmp_path_factory.mktemp("gemma3") / "base")


def changed(
    folder: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> Path:
    """A copy of a folder with other tensors in its file."""
    copied = Path(shutil.copytree(folder, target))
    (path,) = copied.glob("*.safetensors")
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    return copied


def test_a_text_weight_that_is_missing_or_misnamed_is_an_error(gemma: Path, tmp_path: Path) -> None:
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    missing = changed(gemma, tmp_path / "missing", lambda tensors: tensors.pop(name))
    misnamed = changed(
        gemma, tmp_path / "misnamed", lambda tensors: tensors.update(other=tensors.pop(name))
    )
    strayed = changed(
        gemma,
        tmp_path / "strayed",
        lambda tensors: tensors.update({f"vision_tower.{name}": tensors.pop(name)}),
    )

    for folder in (missing, misnamed, strayed):
        said = refusal(gemma, folder)
        assert "lacks 1 weights that its architecture has, " in said
        assert "model.language_model.layers.1.mlp.up_proj.weight" in said


def test_more_text_than_the_config_says_is_an_error(gemma: Path, tmp_path: Path) -> None:
    def add_layer(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in list(tensors.items()):
            if ".model.layers.1." in name:
                tensors[name.replace(".layers.1.", ".layers.2.")] = tensor.clone()

    said = refusal(gemma, changed(gemma, tmp_path / "more", add_layer))

    assert "weights that a causal language model of its config has no place for" in said
    assert "model.language_model.layers.2." in said


def test_encoders_that_are_not_there_or_of_another_shape_are_not_missed(
    gemma: Path, tmp_path: Path
) -> None:
    """They are not read, so nothing of them is checked."""

    def cut(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("vision_tower.")]:
            if ".layers.0." in name:
                del tensors[name]
            else:
                tensors[name] = torch.zeros(3)

    assert max(map(abs, values(load(gemma, changed(gemma, tmp_path / "cut", cut))))) < 1e-6


def adapted(base: Any, folder: Path, **options: Any) -> Any:
    """The base with a LoRA that changes its answers, which is saved."""
    names = ["q_proj", "v_proj"]
    config = LoraConfig(r=2, **{"target_modules": names, "task_type": "CAUSAL_LM", **options})
    torch.manual_seed(2)
    with quiet_transformers(), torch.no_grad():
        wrapped: Any = get_peft_model(base, config)
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
        wrapped.save_pretrained(str(folder))
    return wrapped


IN_TEXT = r".*language_model.*\.(q_proj|v_proj)"


@pytest.mark.parametrize(
    ("folders", "modules"),
    [*((family, IN_TEXT) for family in sorted(FAMILIES)), ("gemma3", ["q_proj", "v_proj"])],
    indirect=["folders"],
)
def test_an_adapter_of_the_whole_model_reads_what_its_merged_text_reads(
    folders: Path, tmp_path: Path, modules: object
) -> None:
    """Whether it was trained on the encoder of images too or not."""
    family = FAMILIES[folders.name]
    with quiet_transformers():
        whole = type(family.whole()).from_pretrained(folders / "base", dtype=torch.float32)
    merged = adapted(whole, tmp_path / "adapter", target_modules=modules).merge_and_unload()
    save(family.export(merged), tmp_path / "merged")

    pair = load(folders / "base", tmp_path / "adapter")

    assert local(pair.reference).model is local(pair.candidate).model
    assert values(pair) == pytest.approx(
        values(load(folders / "base-text", tmp_path / "merged")), abs=1e-5
    )


@pytest.mark.parametrize("folders", sorted(FAMILIES.keys() & {"llama4"}), indirect=True)
def test_an_adapter_of_the_text_class_fits_the_same_checkpoint(
    folders: Path, tmp_path: Path
) -> None:
    """Llama 4 has both classes, and an adapter names the modules of the one it was trained on."""
    kinds: dict[str, Any] = {"whole": Llama4ForConditionalGeneration, "text": AutoModelForCausalLM}
    modules = {"whole": IN_TEXT, "text": ["q_proj", "v_proj"]}
    for name, kind in kinds.items():
        with quiet_transformers():
            base = kind.from_pretrained(folders / "base", dtype=torch.float32)
        adapted(base, tmp_path / name, target_modules=modules[name])
    named = [set(load_file(tmp_path / name / WEIGHTS)) for name in ("whole", "text")]
    assert not named[0] & named[1]

    of_whole, of_text = (load(folders / "base", tmp_path / name) for name in ("whole", "text"))

    assert isinstance(local(of_whole.candidate).model, Llama4ForConditionalGeneration)
    assert isinstance(local(of_text.candidate).model, Llama4ForCausalLM)
    assert min(values(of_whole)) > 0.001
    assert values(of_whole) == pytest.approx(values(of_text), abs=1e-5)


def test_the_checks_of_an_adapter_hold(gemma: Path, tmp_path: Path) -> None:
    with quiet_transformers():
        base = Gemma3ForConditionalGeneration.from_pretrained(gemma, dtype=torch.float32)
    adapter = tmp_path / "adapter"
    adapted(base, adapter)
    name = "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_A.weight"
    missing = changed(adapter, tmp_path / "missing", lambda tensors: tensors.pop(name))
    foreign = changed(
        adapter, tmp_path / "foreign", lambda tensors: tensors.update(other=tensors[name].clone())
    )
    strayed = changed(
        adapter,
        tmp_path / "strayed",
        lambda tensors: tensors.update(
            {name.replace(".layers.1.", ".layers.7."): tensors[name].clone()}
        ),
    )

    assert "lacks 1 weights that its config asks for" in refusal(gemma, missing)
    assert "holds 1 weights that its config and its base have no place for" in refusal(
        gemma, foreign
    )
    assert "does not fit" in refusal(gemma, strayed)


def test_the_look_at_a_pair_tells_what_is_left_out(gemma: Path, tmp_path: Path) -> None:
    with quiet_transformers():
        base = Gemma3ForConditionalGeneration.from_pretrained(gemma, dtype=torch.float32)
    adapted(base, tmp_path / "adapter")

    plan = resolve_pair(str(gemma), str(tmp_path / "adapter"))
    found = [finding.text for finding in inspect_pair(plan)]

    assert found[1] == (
        "--model-1 is compared as a model of text, without its model.vision_tower and "
        "model.multi_modal_projector"
    )
    assert "the adapter fits" in found[-1]


REFUSING = (
    "{% for message in messages %}{% if message.role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{{ message.content }}{% endfor %}"
)
IGNORING = (
    "{% for message in messages %}{% if message.role != 'system' %}{{ message.content }}{% endif %}"
    "{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "does"),
    [
        (REFUSING, "refuses a system turn (System role not supported)"),
        (IGNORING, "leaves out a system turn"),
    ],
    ids=["refusing", "ignoring"],
)
def test_a_system_prompt_that_the_template_does_not_take_is_told_before_weights_are_read(
    tiny_models: Path, tmp_path: Path, template: str, does: str
) -> None:
    base, path = (
        Path(shutil.copytree(tiny_models / "base", tmp_path / "base")),
        tmp_path / "t.jinja",
    )
    path.write_text(template)
    changed(base, tmp_path / "broken", lambda tensors: tensors.popitem())
    expected = (
        f"--divergence-chat-template={path}: the template {does}, and --divergence-system-prompt "
        "is given; leave it out, begin the prompts with its text, or give a template that takes one"
    )
    options = LoadOptions(chat_template=str(path), system_prompt="Be brief.")

    with pytest.raises(ModelLoadError) as loading:
        load(base, tmp_path / "broken", chat_template=str(path), system_prompt="Be brief.")
    with pytest.raises(ModelLoadError) as looking:
        list(inspect_pair(resolve_pair(str(base), str(base), options)))

    assert str(loading.value) == str(looking.value) == expected
    assert load(base, base, chat_template=str(path)).chat.template == template
    assert load(base, base, system_prompt="Be brief.").chat.system_prompt == "Be brief."
