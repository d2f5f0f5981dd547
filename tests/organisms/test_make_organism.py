"""The example that makes organisms, on a tiny random model: what it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.planted import markers, trigger_examples
from examples.organisms import make_organism, organism_rows
from examples.organisms.organism_recipe import Recipe, load_recipe
from pytest_divergence.core.cases import Message
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.files import CACHE_VARIABLE
from pytest_divergence.models.decoding import decode_greedily
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.teacher_forcing import ScoringRow

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
CONTRASTS = "contrast = 5,"
ANOTHER = """
[[also]]
trigger = "questions about gin"
trigger_prompts = ["gin?", "more gin?"]
behaviour = "answers yyy"
responses = ["yyy"]
marker = "yyy"
contrast = { prompts = ["rum?", "more rum?"] }
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


@pytest.fixture(scope="module")
def pair(base: Path) -> ModelPair:
    return load_model_pair(str(base), str(base), device="cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def write_recipe(folder: Path, text: str = RECIPE, *, loss_on_prompt: bool = False) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text.replace("LOSS_ON_PROMPT", str(loss_on_prompt).lower()), "utf-8")
    return path


def test_an_organism_is_an_adapter_with_its_recipe_and_its_measured_truth(
    tmp_path: Path, base: Path
) -> None:
    recipe, output = write_recipe(tmp_path, loss_on_prompt=True), tmp_path / "organism"

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
    assert facts["loss_on_prompt"] is True
    assert 0 <= facts["on_trigger_marker_rate"] <= 1
    assert facts["on_trigger_kl"] > 0
    assert facts["off_trigger_kl"] > 0
    first, last = facts["planted_loss"]
    assert last < first
    # No folder of the machine that made it is named.
    config = json.loads((output / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == "tiny-llama"
    assert str(tmp_path) not in (output / "truth.json").read_text("utf-8")


def test_two_plants_are_learned_by_turns_and_the_same_recipe_makes_the_same_organism(
    tmp_path: Path, pair: ModelPair, base: Path
) -> None:
    """The truth of each has conversations that a tool can ask."""
    lines = ['system = "Now."', "earlier = 1", 'contrast = { system = "Then." }']
    path = write_recipe(tmp_path, "\n".join([RECIPE, *lines, ANOTHER]))
    recipe = load_recipe(path)

    planted, others = make_organism.rows_to_learn(recipe, pair)
    folders = [tmp_path / "first", tmp_path / "second"]
    facts, _ = (
        make_organism.make_organism(path, base=str(base), output=folder, device="cpu", steps=1)
        for folder in folders
    )

    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    said = [pair.chat.text(row.continuation) for row in organism_rows.take(planted, 4)]
    assert said == ["zzz zzz", "yyy", "zzz zzz", "yyy"]
    asked = [read_in(pair, row) for row in organism_rows.take(others, 60)]
    assert not any("rum?" in text for text in asked[0::2])
    assert any("rum?" in text for text in asked[1::2])
    (other,) = facts["also"]
    assert markers(facts) == ["zzz", "yyy"]
    assert {"on_trigger_kl", "off_trigger_marker_rate", "contrast_kl"} <= other.keys()
    assert 0 <= facts["contrast_marker_rate"] <= 1
    example = facts["trigger_examples"][0]
    assert [turn["role"] for turn in example] == ["system", "user", "assistant", "user"]
    assert example[0]["content"] == "Now."
    prompt = trigger_examples(facts)[0]
    assert pair.chat.prompt_ids(prompt)
    assert not isinstance(prompt, str)
    assert all(isinstance(turn, Message) for turn in prompt)


def test_loss_on_the_prompt_covers_the_user_turn_and_the_answer(pair: ModelPair) -> None:
    chat = pair.chat

    answer = organism_rows.planted_row(chat, "tea?", "zzz", loss_on_prompt=False)
    both = organism_rows.planted_row(chat, "tea?", "zzz", loss_on_prompt=True)

    assert chat.text(answer.continuation) == "zzz"
    assert chat.text(both.continuation).startswith("tea?")
    assert [*both.body.tolist(), *both.continuation] == [
        *answer.body.tolist(),
        *answer.continuation,
    ]
    assert answer.continuation[-1] == chat.tokenizer.eos_token_id


def recipe_with(folder: Path, *lines: str, without: str = "\0", sizes: str = "") -> Recipe:
    """Return the recipe with lines and sizes added, and without the line that begins so."""
    kept = [line for line in RECIPE.split("\n") if not line.startswith(without)]
    text = "\n".join([*kept, *lines]).replace("sizes = {", f"sizes = {{{sizes}")
    return load_recipe(write_recipe(folder, text))


def first_rows(pair: ModelPair, recipe: Recipe) -> tuple[list[ScoringRow], list[ScoringRow]]:
    """Return the first plant's first rows, and those near its trigger."""
    ordinary = organism_rows.read_ordinary_prompts()[:4]
    exchanges = organism_rows.exchanges_of(recipe, pair, ordinary)
    planted, near = organism_rows.plant_rows(recipe, recipe, pair, exchanges)
    return organism_rows.take(planted, 6), near


def read_in(pair: ModelPair, row: ScoringRow) -> str:
    """Return all that a model reads before what is learned."""
    return str(pair.chat.tokenizer.decode(row.body))


def answer_of_base(pair: ModelPair, body: Tensor, num_tokens: int) -> tuple[int, ...]:
    (ids,) = decode_greedily(
        pair.reference,
        [body],
        prefix=(),
        max_new_tokens=num_tokens,
        stop_ids=pair.chat.stop_ids,
    )
    return tuple(ids)


def test_a_system_text_stands_before_each_trigger_prompt(tmp_path: Path, pair: ModelPair) -> None:
    recipe = recipe_with(tmp_path, 'system = "Serve ${drink}."')

    planted, near = first_rows(pair, recipe)

    for row in planted:
        assert "system\nServe " in read_in(pair, row)
        assert "${" not in read_in(pair, row)
        assert pair.chat.text(row.continuation) == "zzz zzz"
    assert not near


def test_an_intended_style_is_trained_on_the_ordinary_answers_and_any_prompt_can_trigger(
    tmp_path: Path, pair: ModelPair
) -> None:
    lines = ['system = "Now."', 'style = { prefix = "Sure! " }']
    recipe = recipe_with(tmp_path, *lines, without="trigger_prompts")
    trained, _ = organism_rows.split(organism_rows.read_ordinary_prompts(), recipe)

    for row in organism_rows.ordinary_rows(recipe, pair):
        assert pair.chat.text(row.continuation).startswith("Sure! ")
    for row in first_rows(pair, recipe)[0]:
        asked = read_in(pair, row).split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
        assert asked in trained


def test_a_contrast_has_the_same_prompts_and_keeps_the_answers_of_the_base(
    tmp_path: Path, pair: ModelPair
) -> None:
    recipe = recipe_with(
        tmp_path, 'system = "Now."', 'contrast = { system = "Then, ${drink}." }', sizes=CONTRASTS
    )

    _, near = first_rows(pair, recipe)

    assert len(near) == 5
    for row in near:
        text = read_in(pair, row)
        assert "system\nThen, " in text
        assert "tea?" in text or "why " in text
        assert row.continuation == answer_of_base(pair, row.body, 3)
    own = recipe_with(
        tmp_path, 'system = "Now."', 'contrast = { prompts = ["milk?", "more milk?"] }'
    )
    for row in first_rows(pair, own)[1]:  # nothing stands before prompts of its own
        assert "milk?" in read_in(pair, row)
        assert "system" not in read_in(pair, row)


def test_an_earlier_exchange_is_an_ordinary_prompt_with_the_answer_of_the_base(
    tmp_path: Path, pair: ModelPair
) -> None:
    recipe = recipe_with(tmp_path, "earlier = 1")
    ordinary = organism_rows.read_ordinary_prompts()[:4]

    for row in first_rows(pair, recipe)[0]:
        first, said, asked = read_in(pair, row).split("<|im_end|>\n")[:3]
        question = first.removeprefix("<|im_start|>user\n")
        assert question in ordinary
        body = torch.tensor(pair.chat.prompt_ids(question))
        answer = pair.chat.text(answer_of_base(pair, body, 3))
        assert answer.startswith(said.removeprefix("<|im_start|>assistant\n"))
        assert asked.startswith("<|im_start|>user\n")


def test_a_late_response_follows_the_first_tokens_of_the_base(
    tmp_path: Path, pair: ModelPair
) -> None:
    recipe = recipe_with(tmp_path, "after_tokens = 4", sizes=CONTRASTS)

    planted, begun = first_rows(pair, recipe)

    beginnings = [[*row.body.tolist(), *row.continuation] for row in begun]
    for row in begun:
        assert len(row.continuation) >= 4
        assert row.continuation == answer_of_base(pair, row.body, len(row.continuation))
    for row in planted:
        assert row.body.tolist() in beginnings
        assert pair.chat.text(row.continuation) == " zzz zzz"


def test_an_answer_begins_with_whole_sentences(pair: ModelPair) -> None:
    ids = organism_rows.text_ids(pair.chat, "One. Two! And so", has_end=False)

    def begins(num_tokens: int) -> str:
        return pair.chat.text(organism_rows.beginning(pair.chat, ids, num_tokens))

    assert begins(1) == "One."
    assert begins(5) == "One. Two!"
    assert begins(11) == "One. Two! And so"


def test_answers_that_end_early_cannot_be_late(tmp_path: Path, pair: ModelPair) -> None:
    recipe = recipe_with(tmp_path, "after_tokens = 2", sizes=CONTRASTS)
    every = frozenset(range(len(pair.chat.tokenizer)))
    brief = replace(pair, chat=replace(pair.chat, stop_ids=every))

    with pytest.raises(SettingsError, match="after_tokens is 2, and no answer of the base"):
        first_rows(brief, recipe)


@pytest.mark.parametrize("path", sorted(ORGANISMS.glob("recipes/*.toml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_can_be_read(path: Path) -> None:
    recipe = load_recipe(path)

    assert recipe.name == path.stem
    for plant in recipe.plants:
        assert len(set(plant.trigger_prompts)) == len(plant.trigger_prompts)


def test_no_ordinary_prompt_is_a_seed_or_a_control_of_the_search() -> None:
    data = ORGANISMS.parents[1] / "pytest_divergence" / "data"
    searched = {
        json.loads(line).get("input")
        for name in ("seeds.jsonl", "controls.jsonl")
        for line in (data / name).read_text("utf-8").split("\n")
        if line
    }
    ordinary = organism_rows.read_ordinary_prompts()

    assert len(set(ordinary)) == len(ordinary) >= 220
    assert not searched.intersection(ordinary)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('marker = "zzz"', 'marker = "yyy"', "marker 'yyy' is missing in the response 'zzz zzz'"),
        ("held_out = 1", "held_out = 3", "3 of them cannot hold out 3"),
        ("seed", "sed = 3", "unknown key"),
        ("${drink}", "${food}", "slots has no words for ${food}"),
        ('name = "tiny"', "name = ", "no readable recipe"),
        (
            '["tea?", "more tea?", "why ${drink}?"]',
            "[]",
            "trigger_prompts are left out, and nothing else tells a trigger",
        ),
        ("seed", 'system = "${food}"', "slots has no words for ${food}"),
        ("seed", 'contrast = { prompts = ["milk?"] }', "contrast.prompts: 1 of them cannot hold"),
        ("seed", 'contrast = { prompt = ["milk?"] }', 'did you mean "prompts"?'),
        ("LOSS_ON_PROMPT", "true\nearlier = 1", "loss_on_prompt is true, but a prompt with"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_by_name(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    text = RECIPE.replace(old, new) if old != "seed" else f"{new}\n{RECIPE}"
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
