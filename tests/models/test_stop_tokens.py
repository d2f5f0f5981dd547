"""Where an answer ends: after the end of a turn, whoever names it, for both models alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from transformers import LlamaConfig, PreTrainedTokenizerFast

from pytest_divergence.models.chat_format import ChatFormat
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.tokenizers import eos_ids
from pytest_divergence.models.training_pair import PromptOptions, TrainingPair
from pytest_divergence.scoring.continuations import sampled_continuations
from tests.models_in_memory import tiny_config, tiny_model
from tests.tiny import CHATML, save_tiny_adapter, save_tiny_model, tiny_tokenizer

END_OF_TEXT, START, END_OF_TURN = 0, 1, 2
NAMED = CHATML.replace("<|im_end|>", "{{ eos_token }}")
OPENING = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
PROMPT = "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
REFUSING = (
    "{% if messages[-1].role != 'user' %}{{ raise_exception('no replies') }}{% endif %}" + CHATML
)


def ending(token: str, template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """The tokenizer with another end of a text."""
    tokenizer = tiny_tokenizer(chat_template=template)
    tokenizer.eos_token = token
    return tokenizer


def end_at(folder: Path, token: str, token_id: int) -> Path:
    """Let tokenizer, config and generation config name another end of a text."""
    ending(token).save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": token_id}))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base like Qwen's: a ChatML template, and an end of text that ends no turn."""
    folder = save_tiny_model(tmp_path_factory.mktemp("base"))
    return end_at(folder, "<|endoftext|>", END_OF_TEXT)


def answers(pair: ModelPair) -> Sequence[tuple[int, ...]]:
    found = sampled_continuations(
        pair, ["Hello", "How are you?"], num_continuations=4, max_new_tokens=64, seed=0
    )
    return [ids for row in found for ids in (*row.reference, *row.candidate)]


@pytest.mark.parametrize(
    ("template", "end"),
    [
        pytest.param(CHATML, END_OF_TURN, id="ChatML"),
        pytest.param(OPENING + " <|im_end|>\n" + PROMPT, END_OF_TURN, id="after a space"),
        pytest.param(OPENING + "{{ eos_token }}" + PROMPT, END_OF_TURN, id="by name"),
        pytest.param(OPENING + "\n" + PROMPT, None, id="plain text"),
        pytest.param(
            CHATML.replace("{{ message.content }}", "{{ message.content | trim }}"),
            END_OF_TURN,
            id="trimmed",
        ),
        pytest.param("{{ messages[0].content }}<|im_end|>", None, id="no reply is written"),
        pytest.param(REFUSING, None, id="a reply is refused"),
        pytest.param(None, None, id="no template"),
    ],
)
def test_the_end_of_a_turn_is_the_control_token_after_a_reply(
    template: str | None, end: int | None
) -> None:
    assert ChatFormat(tiny_tokenizer(), template).end_of_turn == end


def test_an_answer_ends_with_its_turn_where_no_file_names_the_turns_end(
    base: Path, tmp_path: Path
) -> None:
    pair = load_model_pair(str(base), str(save_tiny_adapter(base, tmp_path)))

    found = answers(pair)

    assert {ids[-1] for ids in found if len(ids) < 64} == {END_OF_TEXT, END_OF_TURN}
    assert not any(END_OF_TURN in ids[:-1] for ids in found)


def test_the_template_in_use_says_what_ends_a_turn(base: Path, tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text(CHATML.replace("<|im_end|>", "<|im_start|>"))

    own = load_model_pair(str(base), str(base))
    other = load_model_pair(str(base), str(base), chat_template=str(template))
    plain = load_model_pair(str(base), str(base), chat_template="none")

    assert other.chat.stop_ids == {END_OF_TEXT, START}
    assert plain.chat.stop_ids == {END_OF_TEXT}
    assert own.with_template(None).chat.stop_ids == {END_OF_TEXT, END_OF_TURN}


def test_a_pair_in_memory_ends_alike() -> None:
    config = tiny_config(LlamaConfig, eos_token_id=END_OF_TEXT)
    first, second = tiny_model(config=config), tiny_model(config=config)
    tokenizer = ending("<|endoftext|>")

    made = ModelPair.from_models(first, second, tokenizer)
    with TrainingPair.of(second, first, tokenizer, PromptOptions()).measurable() as in_training:
        trained = in_training

    assert made.chat.stop_ids == trained.chat.stop_ids == {END_OF_TEXT, END_OF_TURN}


def test_an_answer_ends_where_either_tokenizer_says(base: Path, tmp_path: Path) -> None:
    """A base and its instruct model, as Qwen and Llama have them: all ids agree but one."""
    candidate = shutil.copytree(base, tmp_path / "instruct")
    ending("<|im_end|>").save_pretrained(candidate)

    both = str(base), str(candidate)
    pairs = [load_model_pair(*order, chat_template="none") for order in (both, both[::-1])]

    assert [pair.chat.stop_ids for pair in pairs] == [{END_OF_TEXT, END_OF_TURN}] * 2
    assert not any({END_OF_TEXT, END_OF_TURN} & {*ids[:-1]} for ids in answers(pairs[0]))


def test_an_end_that_only_the_candidate_knows_ends_no_shared_text() -> None:
    candidate = ending("<end>")
    candidate.add_special_tokens({"eos_token": "<end>"})

    assert eos_ids(ending("<|endoftext|>"), candidate) == {END_OF_TEXT}


@pytest.mark.parametrize("choice", ["reference", "candidate"])
def test_a_template_writes_the_end_of_its_own_tokenizer(
    base: Path, tmp_path: Path, choice: str
) -> None:
    plain, named = ending("<|endoftext|>", None), ending("<|im_end|>", NAMED)
    folders = [shutil.copytree(base, tmp_path / name) for name in ("plain", "named")]
    for folder, tokenizer in zip(folders, (plain, named), strict=True):
        (folder / "chat_template.jinja").unlink()
        tokenizer.save_pretrained(folder)
    training = TrainingPair(tiny_model(), tiny_model(), named, plain, PromptOptions(choice))

    pair = load_model_pair(*map(str, folders), chat_template=choice)
    with training.measurable() as in_training:
        chats = pair.chat, in_training.chat

    for chat in chats:
        assert chat.prompt_ids("Hello") == ChatFormat(tiny_tokenizer(), CHATML).prompt_ids("Hello")
        assert chat.stop_ids == {END_OF_TEXT, END_OF_TURN}
