"""Exactly the named adapter on exactly the named base: what PEFT only warns of is an error."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    TrainableTokensConfig,
    VBLoRAConfig,
    VeraConfig,
    get_peft_model,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models import forward
from pytest_divergence.models.load_plan import resolve_pair
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.module_patterns import pattern_problem
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.preflight import inspect_pair
from pytest_divergence.models.transformers_log import quiet_transformers
from tests.attacks.changes import (
    Change,
    added,
    all_of,
    in_config,
    kept,
    renamed,
    shuffled,
    weights,
    with_base,
)
from tests.tiny import save_tiny_adapter, save_tiny_model

IDS = torch.arange(20, 40)
ROW = torch.ones(2, 32)


@pytest.fixture
def adapter(tiny_models: Path, tmp_path: Path) -> Path:
    """An adapter beside the base, whose weights some changes take."""
    (tmp_path / "base").symlink_to(tiny_models / "base")
    return Path(shutil.copytree(tiny_models / "adapter", tmp_path / "adapter"))


def refusal(base: Path, adapter: Path) -> str:
    """What loading says; a look at the files alone says the same."""
    with pytest.raises(ModelLoadError) as caught:
        load_model_pair(str(base), str(adapter))
    with pytest.raises(ModelLoadError) as looked:
        looked_at(base, adapter)
    assert str(looked.value) == str(caught.value)
    return str(caught.value)


def looked_at(base: Path, adapter: Path) -> list[str]:
    """What is said of a pair without loading it."""
    plan = resolve_pair(str(base), str(adapter))
    return [finding.text for finding in inspect_pair(plan)]


def base_of(folder: Path) -> Any:
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def reference_logits(pair: ModelPair) -> torch.Tensor:
    with torch.no_grad():
        return pair.reference.logits([IDS], num_logits=len(IDS))[0]


FOREIGN = "weights that its config and its base have no place for"
PREFIX = "base_model.model."
HALF = kept(lambda name: "lora_A" in name)
HEAD = with_base("lm_head.weight", shuffled)
CHANGES: dict[str, tuple[Change, str]] = {
    # The sum of each of the base's weights stays as it is.
    "permuted rows": (
        all_of(HEAD, with_base("model.layers.0.mlp.down_proj.weight", shuffled)),
        "changes the base's own weights: it holds 2 of them",
    ),
    "an equal head": (
        with_base("lm_head.weight", lambda one: one),
        "changes the base's own weights: it holds 1 of them",
    ),
    "a head without prefix": (
        all_of(HEAD, renamed(lambda name: name.replace(f"{PREFIX}lm_head", "lm_head"))),
        "changes the base's own weights: it holds 1",
    ),
    "nothing": (kept(lambda name: False), "lacks 8 weights that its config asks for"),
    "names without prefix": (
        renamed(lambda name: name.removeprefix(PREFIX)),
        f"holds 8 {FOREIGN}",
    ),
    "first halves": (HALF, "lacks 4 weights that its config asks for"),
    "one too many": (
        added(base_model__model__model__layers__7__self_attn__q_proj__lora_A__weight=ROW),
        'it has no module "model.layers.7.self_attn.q_proj"',
    ),
    "names as they are inside a model": (
        renamed(lambda name: name.replace(".weight", ".model_2.weight")),
        FOREIGN,
    ),
    "a rank that is not the weights'": (in_config(r=1), "size mismatch for base_model.model.model"),
    "a rank out of all proportion": (
        in_config(r=2_000_000_000),
        "/adapter_config.json sets a rank of 2e+09, and its weights have at most 2; give the "
        "config that belongs to them",
    ),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_weights_that_are_not_the_adapters_own_or_not_there_are_refused(
    tiny_models: Path, adapter: Path, change: Change, said: str
) -> None:
    change(adapter)

    assert said in refusal(tiny_models / "base", adapter)


def test_trained_biases_are_refused(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base", architecture="qwen2")
    adapter = save_tiny_adapter(base, tmp_path / "adapter")

    with_base("model.layers.0.self_attn.q_proj.bias", lambda bias: bias + 4)(adapter)

    assert "changes the base's own weights: it holds 1 of them" in refusal(base, adapter)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"layer_replication": [[0, 2], [0, 2], [1, 2]]},
            "sets layer_replication, which rebuilds the base from its layers, so the "
            "reference would not be the model that you named.",
        ),
        ({"alora_invocation_tokens": [5, 6]}, "is active only after certain tokens"),
        ({"arrow_config": {"task_adapter_names": ["x"]}}, "mixes other adapters"),
        ({"bias": "all"}, 'sets bias to "all": the adapter changes the base\'s own weights'),
        ({"init_lora_weights": "PISSA_niter_4"}, "changes the base's own weights"),
        ({"init_lora_weights": ["x"]}, "changes the base's own weights"),
        (
            {"use_next_years_method": True},
            'sets "use_next_years_method", which the installed peft does not know and would leave',
        ),
    ],
)
def test_a_config_that_makes_another_model_is_refused(
    tiny_models: Path, adapter: Path, changes: Mapping[str, Any], said: str
) -> None:
    in_config(**changes)(adapter)

    message = refusal(tiny_models / "base", adapter)

    assert message.startswith(f"--model-2: {adapter}/adapter_config.json sets ")
    assert said in message


UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mixer|mlp|feed_forward|ffn|dense).*?"
    r"(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\."
    r"(?:self_attn|attention|attn|mixer|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|v_proj)))"
)
ENDLESS = r"^(([a-z\._0-9])+)+X$"


@pytest.mark.parametrize("pattern", [UNSLOTH, ENDLESS])
def test_of_a_pattern_that_may_not_be_matched_the_matrices_name_the_modules(
    tiny_models: Path, adapter: Path, pattern: str
) -> None:
    """As of the adapters that Unsloth writes for models of images and text."""
    base, plain = tiny_models / "base", tiny_models / "adapter"
    expected = load_model_pair(str(base), str(plain)).candidate.logits([IDS], num_logits=1)[0]
    in_config(target_modules=pattern)(adapter)

    for reference in (str(base), f"{plain},base={base}"):
        pair = load_model_pair(reference, str(adapter))
        assert torch.equal(pair.candidate.logits([IDS], num_logits=1)[0], expected)


@pytest.mark.parametrize(
    "pattern",
    [
        ENDLESS,
        r"(a|a)*b",
        "(.|.)" * 26 + "X",
        r".*.*.*.*.*X",
        r".?" * 60 + "X",
        r"(\w{1,9}){5}",
        r"(?:x+)++",
        r"((a?){30})b",
        "a" * 201,
        "(",
    ],
)
def test_a_pattern_that_could_run_for_ever_has_a_problem(pattern: str) -> None:
    assert pattern_problem(pattern) is not None


def test_a_pattern_that_could_run_for_ever_is_refused_under_each_key(
    tiny_models: Path, adapter: Path
) -> None:
    config = (adapter / "adapter_config.json").read_text()
    keys: tuple[dict[str, Any], ...] = (
        {"exclude_modules": ENDLESS},
        {"modules_to_save": ENDLESS},
        {"rank_pattern": {ENDLESS: 4}},
        {"alpha_pattern": {ENDLESS: 4}},
        {"layers_pattern": [ENDLESS], "layers_to_transform": [0]},
    )
    for key in keys:
        (adapter / "adapter_config.json").write_text(config)
        in_config(**key)(adapter)
        with pytest.raises(ModelLoadError, match=r"adapter_config.json: the pattern .*one by one"):
            resolve_pair(str(tiny_models / "base"), str(adapter))


def test_an_ordinary_pattern_passes() -> None:
    for pattern in (
        r".*\.(q_proj|v_proj)$",
        r"(.*\.)?layers\.\d+\.(self_attn)\.(q|k|v)_proj",
        r"model\.layers\.(0|1|2|3|10|11|12)\.(self_attn|mlp)\.(q_proj|k_proj|up_proj|down_proj)",
        r"^(?!.*vision).*\.(q|v)_proj$",
        r".*self_attn\.[qkvo]_proj",
        r"model.layers.[0-9]{1,2}.self_attn.q_proj|.*v_proj",
        "all-linear",
    ):
        assert pattern_problem(pattern) is None, pattern


def test_a_full_model_beside_an_adapter_is_refused(tiny_models: Path, adapter: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_models / "ft" / name, adapter)

    with pytest.raises(ModelLoadError, match="holds an adapter and a full model"):
        resolve_pair(str(tiny_models / "base"), str(adapter))


def test_more_names_of_modules_than_tensors_are_refused(tiny_models: Path, adapter: Path) -> None:
    in_config(target_modules=["q_proj", *map(str, range(1_000))])(adapter)

    with pytest.raises(ModelLoadError, match=r"names modules by 1,0\d\d texts, more than its"):
        resolve_pair(str(tiny_models / "base"), str(adapter))


LORA: dict[str, Any] = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
KINDS: dict[str, PeftConfig] = {
    "plain": LoraConfig(**LORA),
    "gpt2, tied": LoraConfig(r=2, target_modules=["c_attn"]),
    "gpt2, modules to save": LoraConfig(r=2, target_modules=["c_attn"], modules_to_save=["ln_f"]),
    "dora": LoraConfig(**LORA, use_dora=True),
    "rank pattern": LoraConfig(**LORA, rank_pattern={"q_proj": 4}, alpha_pattern={"q_proj": 9}),
    "modules to save": LoraConfig(**LORA, modules_to_save=["lm_head", "norm"]),
    "tokens": LoraConfig(**LORA, trainable_token_indices=[20, 21]),
    "embedding": LoraConfig(r=2, target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "parameters": LoraConfig(r=2, target_modules=[], target_parameters=["q_proj.weight"]),
    "some layers": LoraConfig(**LORA, layers_to_transform=[1], layers_pattern="layers"),
    "adalora": AdaLoraConfig(target_modules=["q_proj"], total_step=10, init_r=2),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "vera": VeraConfig(r=4, target_modules=["q_proj", "o_proj"]),
    "vblora": VBLoRAConfig(
        r=2, target_modules=["q_proj", "v_proj"], vector_length=8, num_vectors=16
    ),
    "oft": OFTConfig(r=0, oft_block_size=8, target_modules=["q_proj"]),
    "boft": BOFTConfig(boft_block_size=4, target_modules=["q_proj"]),
    "norms": LNTuningConfig(target_modules=["input_layernorm"]),
    "trained tokens": TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[20]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_with_an_adapter_switched_off_the_base_is_itself_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    architecture = "gpt2" if kind.startswith("gpt2") else "llama"
    base = save_tiny_model(tmp_path / "base", architecture=architecture)
    config = KINDS[kind]
    config.task_type = "CAUSAL_LM"
    torch.manual_seed(0)
    with quiet_transformers(), torch.no_grad():
        wrapped: Any = get_peft_model(base_of(base), config)
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.3)
        wrapped.save_pretrained(str(tmp_path / "adapter"))
        plain = base_of(base)(IDS[None]).logits[0]
        expected = wrapped.eval()(IDS[None]).logits[0]

    pair = load_model_pair(str(base), str(tmp_path / "adapter"))
    changed = pair.candidate.logits([IDS], num_logits=len(IDS))[0]

    alone = load_model_pair(str(base), str(base))
    assert torch.equal(reference_logits(pair), reference_logits(alone))
    monkeypatch.setattr(forward, "onednn_is_better", lambda: False)  # as transformers reads it
    assert torch.equal(reference_logits(pair), plain)
    assert torch.allclose(changed, expected, atol=1e-5)
    assert not torch.allclose(changed, plain, atol=1e-4)
    unsure = {
        "embedding": "the adapter holds a copy of the base's embedding: loading tells whether it",
        "boft": "the adapter's method needs the base's weights: loading tells whether it fits",
    }
    assert unsure.get(kind, "the adapter fits") in " ".join(looked_at(base, tmp_path / "adapter"))


def test_a_changed_copy_of_an_embedding_is_refused(tiny_models: Path, tmp_path: Path) -> None:
    """PEFT stores an embedding that it adapts beside the adapter, and loads it into the base."""
    config = LoraConfig(r=2, target_modules=["embed_tokens"], task_type="CAUSAL_LM")
    with quiet_transformers():
        get_peft_model(base_of(tiny_models / "base"), config).save_pretrained(str(tmp_path))
    weights(lambda own: {k: one.flip(0) if "base_l" in k else one for k, one in own.items()})(
        tmp_path
    )

    assert "the adapter fits" not in " ".join(looked_at(tiny_models / "base", tmp_path))
    with pytest.raises(ModelLoadError, match=r"changes the base's own weights \(a changed copy"):
        load_model_pair(str(tiny_models / "base"), str(tmp_path))


def test_the_second_of_two_adapters_is_held_to_the_same(tiny_models: Path, adapter: Path) -> None:
    HEAD(adapter)
    first = f"{tiny_models / 'adapter'},base={tiny_models / 'base'}"

    with pytest.raises(ModelLoadError, match=r"--model-2: .* changes the base's own weights"):
        load_model_pair(first, str(adapter))


def test_an_adapter_of_a_plugins_model_is_held_to_the_same(
    tiny_models: Path, adapter: Path
) -> None:
    from pytest_divergence.models.load_plan import LoadContext
    from pytest_divergence.models.loading import load_pair
    from pytest_divergence.models.specs import LoadedModel

    class Provider:
        names = "a plugin"

        def fingerprint(self, spec: str) -> str | None:
            return "1" if spec == "mine:base" else None

        def load_model(self, spec: str, role: str, device: str) -> LoadedModel:
            del spec, role, device
            tokenizer = AutoTokenizer.from_pretrained(tiny_models / "base")
            return LoadedModel(base_of(tiny_models / "base"), tokenizer)

    context = LoadContext(provider=Provider())
    load_pair(resolve_pair("mine:base", str(adapter), context=context), context)
    HALF(adapter)

    with pytest.raises(ModelLoadError, match="lacks 4 weights that its config asks for"):
        load_pair(resolve_pair("mine:base", str(adapter), context=context), context)
