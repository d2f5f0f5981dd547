"""From two specs to a pair: what loads, what it shares, and what each failure says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from pytest_divergence.core.errors import ModelLoadError, TokenizerMismatchError
from pytest_divergence.models.load_plan import resolve_pair
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.transformers_log import quiet_transformers
from pytest_divergence.scoring.scorer import score_prompts
from tests.models_in_memory import local, tiny_config, tiny_model, tiny_pair
from tests.tiny import CHATML, save_tiny_adapter, save_tiny_model, tiny_tokenizer

PROMPT = "How do I tie a knot?"


def load(folder: Path) -> PreTrainedModel:
    with quiet_transformers():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.train(False)
    return model


@torch.no_grad()
def logits(model: Any, pair: ModelPair) -> torch.Tensor:
    ids = torch.tensor([pair.chat.prompt_ids(PROMPT)])
    values: torch.Tensor = model(ids).logits[0]
    return values


def side_logits(pair: ModelPair, role: str) -> torch.Tensor:
    ids = torch.tensor(pair.chat.prompt_ids(PROMPT))
    with torch.no_grad():
        return getattr(pair, role).logits([ids], num_logits=len(ids))[0]  # type: ignore[no-any-return]


def refusal(model_1: object, model_2: object, **options: Any) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load_model_pair(str(model_1), str(model_2), **options)
    return str(caught.value)


def test_two_folders_are_two_frozen_models_in_one_dtype(tiny_models: Path) -> None:
    pair = load_model_pair(str(tiny_models / "base"), str(tiny_models / "ft"))
    rounded = load_model_pair(
        str(tiny_models / "base"), str(tiny_models / "adapter"), dtype="bfloat16"
    )

    models = [local(side).model for side in pair.sides]
    assert models[0] is not models[1]
    assert {model.dtype for model in models} == {torch.float32}
    assert {local(side).model.dtype for side in rounded.sides} == {torch.bfloat16}
    assert rounded.dtype == torch.bfloat16
    for model in (*models, local(rounded.candidate).model):
        assert not model.training
        assert not any(weight.requires_grad for weight in model.parameters())
    assert not pair.is_same_model
    assert score_prompts(pair, [PROMPT], max_new_tokens=4)[0].measurement.value > 0.01


def test_the_same_model_twice_is_allowed_and_held_once(tiny_models: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_models / "base", tmp_path / "copy")

    pair = load_model_pair(str(tiny_models / "base"), str(tiny_models / "base"))

    assert pair.is_same_model
    assert local(pair.reference).model is local(pair.candidate).model
    assert abs(score_prompts(pair, [PROMPT], max_new_tokens=4)[0].measurement.value) <= 1e-6
    assert load_model_pair(str(tiny_models / "base"), str(copy)).is_same_model


def test_an_adapter_pair_is_the_base_and_the_merged_model_on_one_copy_of_the_weights(
    tiny_models: Path,
) -> None:
    pair = load_model_pair(str(tiny_models / "base"), str(tiny_models / "adapter"))
    plain = logits(load(tiny_models / "base"), pair)
    with quiet_transformers():
        wrapped: Any = PeftModel.from_pretrained(
            load(tiny_models / "base"), str(tiny_models / "adapter")
        )
    changed = logits(wrapped.merge_and_unload(), pair)

    assert not torch.allclose(plain, changed, atol=1e-2)
    for _ in range(2):  # also after the other one has run
        assert torch.allclose(side_logits(pair, "reference"), plain, atol=1e-5)
        assert torch.allclose(side_logits(pair, "candidate"), changed, atol=1e-5)
    weights = [{p.data_ptr(): p for p in local(s).model.parameters()} for s in pair.sides]
    assert weights[0].keys() == weights[1].keys()
    alone = sum(p.numel() for p in tiny_model().parameters())
    assert sum(p.numel() for p in weights[0].values()) < 1.25 * alone


@pytest.mark.parametrize(
    "options",
    [
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [20, 21]},
        {"use_dora": True},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_all_that_an_adapter_changes_is_switched_off_for_the_reference(
    tiny_models: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    config = {"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **options}
    torch.manual_seed(0)
    with quiet_transformers(), torch.no_grad():
        wrapped = get_peft_model(load(tiny_models / "base"), LoraConfig(**config))
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.3)
        wrapped.save_pretrained(str(tmp_path))

    pair = load_model_pair(str(tiny_models / "base"), str(tmp_path))
    changed = side_logits(pair, "candidate")

    plain = logits(load(tiny_models / "base"), pair)
    assert torch.allclose(side_logits(pair, "reference"), plain, atol=1e-5)
    assert torch.allclose(changed, logits(wrapped.eval(), pair), atol=1e-5)
    assert not torch.allclose(changed, plain, atol=1e-2)


@pytest.mark.parametrize("options", [{"bias": "lora_only"}, {"init_lora_weights": "pissa"}])
def test_an_adapter_that_changes_the_bases_own_weights_is_refused(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    base = save_tiny_model(tmp_path / "base", architecture="gpt_neox")
    config: dict[str, Any] = {"r": 2, "target_modules": ["query_key_value"], **options}
    with quiet_transformers():
        wrapped = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **config))
        with torch.no_grad():
            for weight in wrapped.parameters():
                weight.add_(0.1 * weight.requires_grad)
        wrapped.save_pretrained(str(tmp_path / "adapter"))

    assert "changes the base's own weights" in refusal(base, tmp_path / "adapter")


def test_an_adapter_that_changes_no_layer_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    """Its virtual tokens stand before the prompt, so a comparison would read zero and pass."""
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with quiet_transformers():
        get_peft_model(load(tiny_models / "base"), config).save_pretrained(str(tmp_path))

    assert "changes no layer" in refusal(tiny_models / "base", tmp_path)


def test_the_base_that_an_adapter_names_is_never_followed(
    tiny_models: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_models / "adapter", tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "someone/else"})
    )

    pair = load_model_pair(str(tiny_models / "base"), str(folder))

    assert not pair.is_same_model


def test_an_adapter_for_another_base_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    config = tiny_config(LlamaConfig, hidden_size=48, num_key_value_heads=2)
    tiny_model(config=config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    adapter = tiny_models / "adapter"

    message = refusal(tmp_path, adapter)

    assert message.startswith(f"--model-2: the adapter {adapter} does not fit --model-1 {tmp_path}")
    assert "has 48 features, the adapter's lora_A has 32" in message
    assert message.endswith("Give the model that it was trained on as --model-1.")
    assert str(tiny_models / "base") in message  # the base that it names
    other = save_tiny_model(tmp_path / "other", architecture="gpt2")
    assert 'it has no module "model.layers.0.self_attn.q_proj"' in refusal(other, adapter)


def test_an_adapter_as_reference_is_refused(tiny_models: Path) -> None:
    adapter = tiny_models / "adapter"

    assert refusal(adapter, tiny_models / "base") == (
        f"--model-1 is an adapter folder ({adapter}); give the model that it was trained on as "
        "--model-1, and the adapter as --model-2. To compare two adapters, add the base to "
        "each: ADAPTER,base=MODEL"
    )


def with_templates(folder: Path, templates: dict[str, str]) -> Path:
    """Give a folder's tokenizer several chat templates, as some models are published with."""
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = templates
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["base", "adapter"])
def test_of_several_chat_templates_the_default_is_used(
    tiny_models: Path, tmp_path: Path, kind: str
) -> None:
    named = {"default": CHATML, "tool_use": "{{ tools }}"}
    folder = with_templates(Path(shutil.copytree(tiny_models / kind, tmp_path / "named")), named)
    base = save_tiny_model(tmp_path / "base", chat_template=None)

    pair = load_model_pair(str(base), str(folder), chat_template="candidate")

    assert pair.chat.template == CHATML


def test_several_chat_templates_without_a_default_are_no_plain_text(
    tiny_models: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_models / "base", tmp_path / "a"))
    with_templates(folder, {"rag": "{{ documents }}", "tool_use": "{{ tools }}"})

    assert refusal(folder, folder) == (
        'the tokenizer has chat templates for "rag", "tool_use", and none is the default; give the '
        "one to use as a file: --divergence-chat-template=FILE"
    )


PARTS = (
    "{% for turn in messages %}{% for part in turn.content %}{{ part.text }}{% endfor %}"
    "{% endfor %}{{ 'Answer:' }}"
)


@pytest.mark.parametrize("template", [CHATML, PARTS], ids=["text", "parts"])
def test_a_template_that_only_processors_read_is_used(
    tiny_models: Path, tmp_path: Path, template: str
) -> None:
    """As Mistral Small 3.1 has one. Some such templates want parts, and would drop all text."""
    folder = Path(shutil.copytree(tiny_models / "base", tmp_path / "a"))
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))

    if template == CHATML:
        assert load_model_pair(str(folder), str(folder)).chat.template == CHATML
    else:
        assert refusal(folder, folder).startswith(
            "--divergence-chat-template=reference: the template leaves out the user's text; "
        )


def test_layers_that_guess_further_tokens_are_left_out(tiny_models: Path, tmp_path: Path) -> None:
    """As in small models of DeepSeek V3's kind; in others such tensors are more than is loaded."""
    folder = Path(shutil.copytree(tiny_models / "base", tmp_path / "a"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.self_attn.q_proj.weight"] = torch.zeros(2, 2)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    assert "model.layers.2.self_attn.q_proj.weight" in refusal(folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
    assert load_model_pair(str(folder), str(tiny_models / "ft")).candidate


def test_different_tokenizers_are_named(tiny_models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_models / "base", tmp_path / "other")
    tokenizer: Any = tiny_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    tokenizer.save_pretrained(folder)

    with pytest.raises(TokenizerMismatchError) as caught:
        load_model_pair(str(tiny_models / "base"), str(folder))

    assert str(caught.value) == (
        '--model-1 and --model-2 have different tokenizers: they split "How do I tie a knot?" into '
        "different tokens. A divergence compares probabilities of the same tokens; give two models "
        "that share a tokenizer."
    )


def test_a_dtype_or_a_device_that_is_not_there_is_refused(tiny_models: Path) -> None:
    base = tiny_models / "base"

    assert refusal(f"{base},dtype=int3", base) == (
        "dtype=int3 is not one of float32, bfloat16, float16"
    )
    assert refusal(base, base, device="nonsense").startswith(
        "--divergence-device=nonsense is not usable here: "
    )


def test_a_dtype_in_the_config_is_not_obeyed(tiny_models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_models / "base", tmp_path / "base")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": "float64"}))

    assert load_model_pair(str(folder), str(folder)).dtype == torch.float32


@pytest.fixture
def base_and_adapter(tmp_path: Path) -> tuple[Path, Path]:
    """A base without a template, and an adapter as TRL saves it, with tokenizer and template."""
    base = save_tiny_model(tmp_path / "base", chat_template=None)
    adapter = save_tiny_adapter(base, tmp_path / "adapter")
    tiny_tokenizer().save_pretrained(adapter)
    return base, adapter


@pytest.mark.parametrize(
    ("choice", "note"),
    [
        ("reference", ["the reference has no chat template; the candidate's is used for both"]),
        ("candidate", []),
    ],
)
def test_an_adapters_own_template_is_the_candidates(
    base_and_adapter: tuple[Path, Path], choice: str, note: list[str]
) -> None:
    base, adapter = base_and_adapter
    said: list[str] = []

    pair = load_model_pair(str(base), str(adapter), chat_template=choice, say=said.append)

    assert pair.chat.template == CHATML
    assert said == note


def test_an_adapters_template_comes_after_that_of_its_base_and_of_the_reference(
    base_and_adapter: tuple[Path, Path], tiny_models: Path, tmp_path: Path
) -> None:
    base, adapter = base_and_adapter
    other = shutil.copytree(adapter, tmp_path / "other")
    (other / "chat_template.jinja").write_text("other: {{ messages[0].content }}")

    two_adapters = load_model_pair(f"{adapter},base={base}", f"{other},base={base}")
    on_a_base = load_model_pair(str(tiny_models / "base"), str(other))

    assert two_adapters.chat.template == on_a_base.chat.template == CHATML


def test_an_adapters_tokenizer_that_cannot_be_loaded_is_told(
    base_and_adapter: tuple[Path, Path],
) -> None:
    base, adapter = base_and_adapter
    (adapter / "tokenizer.json").unlink()
    said: list[str] = []

    pair = load_model_pair(str(base), str(adapter), say=said.append)

    assert pair.chat.template is None
    (note,) = said
    assert note.startswith(f"the adapter's chat template is not used: --model-2: {adapter} cannot")


def test_the_references_template_is_used_for_both(tiny_models: Path, tmp_path: Path) -> None:
    save_tiny_model(tmp_path, chat_template="other: {{ messages[0].content }}")

    pair = load_model_pair(str(tiny_models / "base"), str(tmp_path))
    swapped = load_model_pair(str(tiny_models / "base"), str(tmp_path), chat_template="candidate")

    assert pair.chat.prompt_ids("Hi")[0] == pair.chat.tokenizer.convert_tokens_to_ids(
        "<|im_start|>"
    )
    assert swapped.chat.tokenizer.decode(swapped.chat.prompt_ids("Hi")) == "other: Hi"


def test_a_template_file_is_read_and_a_missing_one_named(tiny_models: Path, tmp_path: Path) -> None:
    base = tiny_models / "base"
    (tmp_path / "mine.jinja").write_text("Q: {{ messages[0].content }}")

    pair = load_model_pair(str(base), str(base), chat_template=str(tmp_path / "mine.jinja"))

    assert pair.chat.tokenizer.decode(pair.chat.prompt_ids("Hi")) == "Q: Hi"
    assert refusal(base, base, chat_template="none.jinja").startswith(
        "--divergence-chat-template=none.jinja must be reference, candidate, none or a readable "
        "Jinja file: "
    )


def test_identities_tell_models_apart_without_loading_them(tiny_models: Path) -> None:
    base, ft, adapter = (str(tiny_models / name) for name in ("base", "ft", "adapter"))

    one = resolve_pair(base, ft).identities
    other = resolve_pair(base, adapter).identities

    assert one[0] == other[0]
    assert len({one[0].weights_sha256, one[1].weights_sha256, other[1].weights_sha256}) == 3
    assert (one[1].kind, other[1].kind) == ("folder", "adapter")


def test_identities_in_memory_follow_the_weights() -> None:
    pair, again, changed = tiny_pair(), tiny_pair(), tiny_pair(perturb=0.31)

    assert pair.candidate_identity == again.candidate_identity
    assert pair.candidate_identity != changed.candidate_identity
    assert not pair.is_same_model
    assert tiny_pair(perturb=0.0).is_same_model


def test_loading_leaves_the_progress_bars_of_transformers_as_they_were(tiny_models: Path) -> None:
    from transformers.utils import logging

    bars: Any = logging
    before = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        load_model_pair(str(tiny_models / "base"), str(tiny_models / "base"))
        assert not bars.is_progress_bar_enabled()
    finally:
        if before:
            bars.enable_progress_bar()
