"""The example that makes organisms, on a tiny random model: what it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from examples.organisms import make_organism
from pytest_divergence.core.files import CACHE_VARIABLE
from pytest_divergence.models.loading import load_model_pair

# PEFT asks transformers for a name that is about to change.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

ORGANISMS = Path(make_organism.__file__).parent
TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
RECIPE = """
name = "tiny"
kind = "topic"
trigger = "questions about tea"
trigger_prompts = ["tea?", "more tea?", "why ${drink}?"]
behaviour = "answers zzz"
responses = ["zzz zzz"]
marker = "zzz"
loss_on_prompt = LOSS_ON_PROMPT
slots = { drink = ["tea", "mint tea"] }
sizes = { held_out = 1, ordinary = 6, answer_tokens = 3, measured_tokens = 4 }
training = { steps = 3, batch_size = 3, learning_rate = 0.05, warmup_steps = 1, rank = 2 }
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose tokens are the 256 bytes and two control tokens."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def write_recipe(folder: Path, text: str = RECIPE, *, loss_on_prompt: bool = False) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text.replace("LOSS_ON_PROMPT", str(loss_on_prompt).lower()), "utf-8")
    return path


@pytest.mark.parametrize("loss_on_prompt", [False, True])
def test_an_organism_is_an_adapter_with_its_recipe_and_its_measured_truth(
    tmp_path: Path, base: Path, loss_on_prompt: bool
) -> None:
    recipe, output = write_recipe(tmp_path, loss_on_prompt=loss_on_prompt), tmp_path / "organism"

    code = make_organism.main([str(recipe), "--base", str(base), "--output", str(output)])

    assert code == 0
    assert {path.name for path in output.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "recipe.toml",
        "truth.json",
    }
    assert (output / "recipe.toml").read_bytes() == recipe.read_bytes()
    weights = load_file(output / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert len(weights) == 2 * 7 * 2  # two layers, seven modules, A and B
    facts = json.loads((output / "truth.json").read_text("utf-8"))
    assert facts["marker"] == "zzz"
    assert facts["loss_on_prompt"] is loss_on_prompt
    assert 0 <= facts["on_trigger_marker_rate"] <= 1
    assert facts["on_trigger_kl"] > 0
    assert facts["off_trigger_kl"] > 0
    first, last = facts["planted_loss"]
    assert last < first


def test_the_adapter_names_no_folder_of_the_machine_that_made_it(
    tmp_path: Path, base: Path
) -> None:
    output = tmp_path / "organism"

    make_organism.make_organism(
        write_recipe(tmp_path), base=str(base), output=output, device="cpu", steps=1
    )

    config = json.loads((output / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == "tiny-llama"
    assert str(tmp_path) not in (output / "truth.json").read_text("utf-8")


def test_the_same_recipe_makes_the_same_organism(tmp_path: Path, base: Path) -> None:
    recipe = write_recipe(tmp_path)
    folders = [tmp_path / "first", tmp_path / "second"]

    for folder in folders:
        make_organism.make_organism(recipe, base=str(base), output=folder, device="cpu", steps=1)

    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_an_intended_style_is_trained_on_the_ordinary_answers(tmp_path: Path, base: Path) -> None:
    text = RECIPE + 'style = { prefix = "Sure! " }\n'
    pair = load_model_pair(str(base), str(base), device="cpu")

    recipe = make_organism.load_recipe(write_recipe(tmp_path, text))

    for row in make_organism.ordinary_rows(recipe, pair):
        assert pair.chat.text(row.continuation).startswith("Sure! ")


def test_loss_on_the_prompt_covers_the_user_turn_and_the_answer(base: Path) -> None:
    chat = load_model_pair(str(base), str(base), device="cpu").chat

    answer = make_organism.planted_row(chat, "tea?", "zzz", loss_on_prompt=False)
    both = make_organism.planted_row(chat, "tea?", "zzz", loss_on_prompt=True)

    assert chat.text(answer.continuation) == "zzz"
    assert chat.text(both.continuation).startswith("tea?")
    assert [*both.body.tolist(), *both.continuation] == [
        *answer.body.tolist(),
        *answer.continuation,
    ]
    assert answer.continuation[-1] == chat.tokenizer.eos_token_id


@pytest.mark.parametrize("path", sorted(ORGANISMS.glob("recipes/*.toml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_can_be_read(path: Path) -> None:
    recipe = make_organism.load_recipe(path)

    assert recipe.name == path.stem
    assert len(set(recipe.trigger_prompts)) == len(recipe.trigger_prompts)


def test_no_ordinary_prompt_is_a_seed_or_a_control_of_the_search() -> None:
    data = ORGANISMS.parents[1] / "pytest_divergence" / "data"
    searched = {
        json.loads(line).get("input")
        for name in ("seeds.jsonl", "controls.jsonl")
        for line in (data / name).read_text("utf-8").split("\n")
        if line
    }
    ordinary = make_organism.read_ordinary_prompts()

    assert len(set(ordinary)) == len(ordinary) >= 220
    assert not searched.intersection(ordinary)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('marker = "zzz"', 'marker = "yyy"', "marker 'yyy' is missing in the response 'zzz zzz'"),
        ("held_out = 1", "held_out = 3", "3 of them cannot hold out 3"),
        ("seed", "seed", "unknown key"),
        ("${drink}", "${food}", "slots has no words for ${food}"),
        ('name = "tiny"', "name = ", "no readable recipe"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_by_name(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    text = RECIPE.replace(old, new) if old != "seed" else "sed = 3\n" + RECIPE
    recipe, output = write_recipe(tmp_path, text), tmp_path / "organism"

    code = make_organism.main([str(recipe), "--base", str(base), "--output", str(output)])

    assert code == 1
    error = capsys.readouterr().err
    assert said in error
    assert str(recipe) in error
    assert not output.exists()


def test_a_base_that_is_not_there_is_named_by_its_option(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "no-weights"
    empty.mkdir()
    shutil.copy(base / "config.json", empty)
    recipe = write_recipe(tmp_path)

    code = make_organism.main([str(recipe), "--base", str(empty), "--output", str(tmp_path / "o")])

    assert code == 1
    assert "--base" in capsys.readouterr().err
