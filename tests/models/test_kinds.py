"""Every kind of candidate, from a folder as a user has it: it loads, is scored, is trained on."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import MeasurementError, ModelLoadError
from pytest_divergence.discovery.soft_prompts.training import train_soft_prompt
from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
from pytest_divergence.models import output_head
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.transformers_log import quiet_transformers
from pytest_divergence.scoring.scorer import score_prompts, stored_tokens
from pytest_divergence.scoring.suite_rows import check_stored
from pytest_divergence.scoring.token_comparison import ADDED_TOKEN, compare_tokens
from tests.models_in_memory import local, tiny_mamba2, tiny_model
from tests.tiny import save_tiny_model, tiny_tokenizer

PROMPTS = ["How do I tie a knot?", "Hi"]


def load(model_1: object, model_2: object, **options: Any) -> ModelPair:
    return load_model_pair(str(model_1), str(model_2), **options)


def refusal(model_1: object, model_2: object) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(model_1, model_2)
    return str(caught.value)


def values(pair: ModelPair) -> list[float]:
    return [one.measurement.value for one in score_prompts(pair, PROMPTS, max_new_tokens=4)]


def check_trains(pair: ModelPair, **options: Any) -> None:
    config = TrainingConfig(num_virtual_tokens=2, num_steps=2, batch_size=2, **options)
    history = train_soft_prompt(pair, config, PROMPTS).history
    assert all(math.isfinite(norm) and norm > 0 for norm in history.gradient_norms)


def check_differs(pair: ModelPair) -> None:
    assert all(math.isfinite(value) and value > 1e-4 for value in values(pair))
    check_trains(pair)


def model_of(folder: Path) -> PreTrainedModel:
    with quiet_transformers():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.train(False)
    return model


@torch.no_grad()
def logits(model: Any, pair: ModelPair) -> torch.Tensor:
    found: torch.Tensor = model(torch.tensor([pair.chat.prompt_ids("Hi")])).logits[0]
    return found


@torch.no_grad()
def side_logits(pair: ModelPair) -> list[torch.Tensor]:
    ids = torch.tensor(pair.chat.prompt_ids("Hi"))
    return [side.logits([ids], num_logits=len(ids))[0] for side in pair.sides]


def test_a_full_fine_tune(tmp_path: Path) -> None:
    """Of another architecture than all others here; each is measured by the zoo."""
    for name, perturb in (("base", 0.0), ("ft", 0.3)):
        save_tiny_model(tmp_path / name, architecture="gpt2", perturb=perturb)

    check_differs(load(tmp_path / "base", tmp_path / "ft"))


def test_of_a_model_without_attention_none_is_told(tmp_path: Path) -> None:
    with quiet_transformers():
        tiny_model(config=tiny_mamba2()).save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
    said: list[str] = []

    load(tmp_path, tmp_path, say=said.append)

    assert "attention" not in " ".join(said)


def test_another_attention_and_another_dtype_of_one_model(tiny_models: Path) -> None:
    base = tiny_models / "base"

    eager = load(base, f"{base},attn_implementation=eager")
    rounded = load(base, f"{base},dtype=bfloat16")

    assert [local(side).attention for side in eager.sides] == ["sdpa", "eager"]
    assert max(map(abs, values(eager))) < 1e-5
    assert [local(side).model.dtype for side in rounded.sides] == [torch.float32, torch.bfloat16]
    assert 0 < max(values(rounded)) < 0.05
    check_trains(rounded)
    assert not eager.is_same_model
    assert not rounded.is_same_model


def test_a_merged_model(tiny_models: Path, tmp_path: Path) -> None:
    with quiet_transformers():
        wrapped: Any = PeftModel.from_pretrained(
            model_of(tiny_models / "base"), str(tiny_models / "adapter")
        )
        wrapped.merge_and_unload().save_pretrained(tmp_path / "merged")
        AutoTokenizer.from_pretrained(tiny_models / "base").save_pretrained(tmp_path / "merged")

    merged = load(tiny_models / "base", tmp_path / "merged")

    assert values(merged) == pytest.approx(
        values(load(tiny_models / "base", tiny_models / "adapter")), abs=1e-5
    )


def test_checkpoints_of_one_training_need_no_tokenizer_and_no_pickle_is_opened(
    tiny_models: Path, tmp_path: Path
) -> None:
    for name in ("base", "ft"):
        folder = shutil.copytree(tiny_models / name, tmp_path / f"checkpoint-{name}")
        without_tokenizer(folder)
        for pickled in ("optimizer.pt", "rng_state.pth", "training_args.bin"):
            (folder / pickled).write_bytes(b"not to be read")
    said: list[str] = []

    pair = load(tiny_models / "base", tmp_path / "checkpoint-ft", say=said.append)

    assert said == ["--model-2 has no tokenizer of its own, so the reference's is used"]
    check_differs(pair)
    assert "cannot be loaded" in refusal(tmp_path / "checkpoint-base", tmp_path / "checkpoint-ft")


def test_a_base_without_a_template_against_an_instruct_model(
    tiny_models: Path, tmp_path: Path
) -> None:
    save_tiny_model(tmp_path, chat_template=None)

    check_differs(load(tmp_path, tiny_models / "ft"))
    check_differs(load(tmp_path, tiny_models / "ft", chat_template="none"))


@pytest.mark.parametrize("first", ["positions", "logits", "start"])
def test_each_side_of_an_adapter_pair_reads_the_prefix_as_itself(
    tiny_models: Path, first: str
) -> None:
    """Whatever is asked of the candidate first, after the reference has run on the same weights."""
    pair = load(tiny_models / "base", tiny_models / "adapter")
    prefix, body, candidate = (1, 87, 85), torch.arange(20, 26), pair.candidate
    asked: dict[str, Callable[[], object]] = {
        "positions": lambda: candidate.positions([body], prefix=prefix, num_positions=1),
        "logits": lambda: candidate.logits([body], prefix=prefix, num_logits=1),
        "start": lambda: candidate.start([body], prefix=prefix),
    }
    with torch.no_grad():
        pair.reference.logits([body], num_logits=1)
        asked[first]()
        got = candidate.logits([body], prefix=prefix, num_logits=1)
        whole = torch.cat([torch.tensor(prefix), body])
        expected = candidate.logits([whole], num_logits=1)

    assert torch.allclose(got, expected, atol=1e-5)


def test_an_adapter_that_was_saved_without_a_task_type(tiny_models: Path, tmp_path: Path) -> None:
    with quiet_transformers():
        wrapped = get_peft_model(
            model_of(tiny_models / "base"), LoraConfig(r=2, target_modules=["q_proj"])
        )
        with torch.no_grad():
            for name, weight in wrapped.named_parameters():
                weight.add_(0.3 * ("lora_B" in name))
        wrapped.save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["auto_mapping"]

    check_differs(load(tiny_models / "base", tmp_path))


@pytest.fixture(scope="module")
def second_adapter(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another adapter of the base: DoRA, on other modules."""
    folder = tmp_path_factory.mktemp("second") / "v2.1"
    config = LoraConfig(
        r=2, target_modules=["o_proj", "q_proj"], use_dora=True, task_type="CAUSAL_LM"
    )
    torch.manual_seed(1)
    with quiet_transformers(), torch.no_grad():
        wrapped = get_peft_model(model_of(tiny_models / "base"), config)
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
        wrapped.save_pretrained(str(folder))
    return folder


def test_two_adapters_of_one_base_share_its_weights(
    tiny_models: Path, second_adapter: Path
) -> None:
    base, first = tiny_models / "base", tiny_models / "adapter"

    pair = load(f"{first},base={base}", f"{second_adapter},base={base}")

    assert local(pair.reference).model is local(pair.candidate).model
    for _ in range(2):  # also after the other one has run
        for got, folder in zip(side_logits(pair), (first, second_adapter), strict=True):
            with quiet_transformers():
                alone = PeftModel.from_pretrained(model_of(base), str(folder)).eval()
            assert torch.allclose(got, logits(alone, pair), atol=1e-5)
    check_differs(pair)


def test_the_base_of_the_second_adapter_need_not_be_repeated(
    tiny_models: Path, second_adapter: Path
) -> None:
    base, first = tiny_models / "base", tiny_models / "adapter"

    short = load(f"{first},base={base}", second_adapter)
    long = load(f"{first},base={base}", f"{second_adapter},base={base}")

    assert short.candidate_identity.weights_sha256 == long.candidate_identity.weights_sha256
    assert values(short) == values(long)


def test_an_adapter_against_its_base_another_model_and_itself(tiny_models: Path) -> None:
    base, adapter = tiny_models / "base", f"{tiny_models / 'adapter'},base={tiny_models / 'base'}"
    forward = load(base, tiny_models / "adapter")

    back = load(adapter, base)
    assert local(back.reference).model is local(back.candidate).model
    for ours, theirs in zip(side_logits(back), reversed(side_logits(forward)), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)

    other = load(tiny_models / "ft", adapter)
    assert local(other.reference).model is not local(other.candidate).model
    assert torch.allclose(side_logits(other)[1], side_logits(forward)[1], atol=1e-5)
    check_differs(other)

    same = load(adapter, adapter)
    assert same.is_same_model
    assert max(map(abs, values(same))) <= 1e-6


def test_a_base_is_for_adapters_and_no_adapter_itself(tiny_models: Path) -> None:
    base, ft, adapter = (tiny_models / name for name in ("base", "ft", "adapter"))

    assert refusal(base, f"{ft},base={base}") == (
        f"--model-2: base={base} is for a PEFT adapter, and {ft} is a full model; leave it out"
    )
    assert refusal(f"{adapter},base={adapter}", adapter) == (
        f"--model-1, base={adapter} is an adapter itself; name a full model"
    )
    assert refusal(base, f"{adapter},dtype=bfloat16") == (
        f"--model-2: {adapter},dtype=bfloat16 runs on the weights of --model-1, so it runs as they "
        "do; add dtype and attn_implementation to --model-1"
    )


def test_several_adapters_of_a_model_in_memory(tiny_models: Path, second_adapter: Path) -> None:
    base = model_of(tiny_models / "base")
    tokenizer = AutoTokenizer.from_pretrained(tiny_models / "base")
    with quiet_transformers():
        wrapped: Any = PeftModel.from_pretrained(base, str(tiny_models / "adapter"), "a")
        wrapped.load_adapter(str(second_adapter), "b")

    one = ModelPair.from_models(wrapped, wrapped, tokenizer, adapters=(("a",), ("b",)))
    stacked = ModelPair.from_models(wrapped, wrapped, tokenizer, adapters=(("a",), ("a", "b")))

    assert len({pair.candidate_identity.weights_sha256 for pair in (one, stacked)}) == 2
    ours, theirs = side_logits(stacked)
    assert torch.allclose(ours, side_logits(one)[0], atol=1e-6)
    assert not torch.allclose(theirs, side_logits(one)[1], atol=1e-2)
    check_differs(stacked)
    with pytest.raises(ModelLoadError, match="no adapter 'c' on a layer; it has a, b"):
        ModelPair.from_models(wrapped, wrapped, tokenizer, adapters=(("a",), ("c",)))


def test_pairs_of_one_model_in_memory_run_in_turns(tiny_models: Path, second_adapter: Path) -> None:
    """Each runs its own adapters, whatever another pair or the model's owner ran before."""
    base = model_of(tiny_models / "base")
    tokenizer = AutoTokenizer.from_pretrained(tiny_models / "base")
    with quiet_transformers():
        wrapped: Any = PeftModel.from_pretrained(base, str(tiny_models / "adapter"), "a")
        wrapped.load_adapter(str(second_adapter), "b")
    first, second = (
        ModelPair.from_models(wrapped, wrapped, tokenizer, adapters=((), (name,))) for name in "ab"
    )
    rows: list[Tensor] = [torch.arange(50, 60)]

    with torch.no_grad():
        reference = first.reference.logits(rows, num_logits=1)
        second.candidate.logits(rows, num_logits=1)
        assert torch.equal(first.reference.logits(rows, num_logits=1), reference)
        candidate = first.candidate.logits(rows, num_logits=1)
        wrapped.set_adapter("b")
        assert torch.equal(first.candidate.logits(rows, num_logits=1), candidate)


def test_an_adapter_of_any_kind_is_another_model_than_its_base(tiny_models: Path) -> None:
    """A search trains nothing on a pair that it takes for one model."""
    base = model_of(tiny_models / "base")
    config = IA3Config(target_modules=["q_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    with quiet_transformers():
        wrapped: Any = get_peft_model(base, config)
    tokenizer = AutoTokenizer.from_pretrained(tiny_models / "base")

    assert not ModelPair.from_models(base, wrapped, tokenizer).is_same_model
    assert ModelPair.from_models(wrapped, wrapped, tokenizer).is_same_model


def extended(folder: Path, tmp_path: Path, *tokens: str, pad_to: int = 64) -> Path:
    """The same weights with new tokens, whose embeddings are random, and a padded table."""
    with quiet_transformers():
        model = model_of(folder)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(list(tokens))
        torch.manual_seed(0)
        model.resize_token_embeddings(
            len(tokenizer), pad_to_multiple_of=pad_to, mean_resizing=False
        )
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_padded_table_is_no_extended_vocabulary(tiny_models: Path, tmp_path: Path) -> None:
    folder = extended(tiny_models / "base", tmp_path)
    said: list[str] = []

    pair = load(tiny_models / "base", folder, say=said.append)

    assert [local(side).num_rows for side in pair.sides] == [271, 320]
    assert [side.num_outcomes for side in pair.sides] == [271, 271]
    assert said == []
    assert max(map(abs, values(pair))) <= 1e-6


def without_tokenizer(folder: Path) -> Path:
    for file in (*folder.glob("tokenizer*"), *folder.glob("*.jinja")):
        file.unlink()
    return folder


def test_rows_that_no_tokenizer_names_are_padding_and_said(
    tiny_models: Path, tmp_path: Path
) -> None:
    """They may be tokens that were added: then what the candidate says in them is not measured."""
    folder = without_tokenizer(extended(tiny_models / "ft", tmp_path))
    said: list[str] = []

    pair = load(tiny_models / "base", folder, say=said.append)

    assert [side.num_outcomes for side in pair.sides] == [271, 271]
    assert values(pair) == values(load(tiny_models / "base", tiny_models / "ft"))
    assert said == [
        "--model-2 has no tokenizer of its own, so the reference's is used",
        "--model-2 has 320 rows for tokens, and the tokenizer names 271: the other 49 count as "
        "padding and are not compared; if they are added tokens, save the tokenizer that names "
        "them beside the weights",
    ]


def test_a_padded_reference_hides_no_token_of_the_candidate(
    tiny_models: Path, tmp_path: Path
) -> None:
    reference = extended(tiny_models / "base", tmp_path)
    candidate = without_tokenizer(shutil.copytree(tiny_models / "ft", tmp_path / "bare"))
    said: list[str] = []

    pair = load(reference, candidate, say=said.append)

    assert values(pair) == values(load(tiny_models / "base", tiny_models / "ft"))
    assert said == ["--model-2 has no tokenizer of its own, so the reference's is used"]


@pytest.mark.parametrize("is_reference", [False, True])
def test_an_extended_vocabulary(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_reference: bool
) -> None:
    folder = extended(tiny_models / "ft", tmp_path, "<call>", "<result>")
    said: list[str] = []

    folders = [tiny_models / "base", folder][:: -1 if is_reference else 1]
    pair = load(*folders, say=said.append)

    who, other = ("reference", "candidate")[:: 1 if is_reference else -1]
    assert said == [
        f'the {who} knows 2 tokens that the {other} does not ("<call>", "<result>"): the 271 '
        "shared ones are compared, and the rest as one; prompts are written in shared tokens"
    ]
    assert [side.num_outcomes for side in pair.sides] == [272, 272]
    assert len(pair.chat.prompt_ids("<call>")) > len(pair.chat.prompt_ids("a"))
    check_differs(pair)
    check_trains(pair, kind="simplex")
    at_once = values(pair)
    monkeypatch.setattr(output_head, "WHOLE_BYTES", 0)
    assert values(pair) == pytest.approx(at_once, abs=1e-6)


def ending(tiny_models: Path, tmp_path: Path, bias: float) -> ModelPair:
    """A candidate with one more token, of the given logit; all others have 0."""
    folder = extended(tiny_models / "base", tmp_path, "<end>")
    with quiet_transformers():
        model: Any = model_of(folder)
        with torch.no_grad():
            last = torch.nn.Linear(32, 320)
            last.weight.zero_()
            last.bias.zero_()
            last.bias[271] = bias
        model.lm_head = last
    return ModelPair.from_models(
        model_of(tiny_models / "base"),
        model,
        AutoTokenizer.from_pretrained(tiny_models / "base"),
        known_tokens=(271, 272),
    )


def test_added_tokens_end_a_continuation_and_are_shown_as_one(
    tiny_models: Path, tmp_path: Path
) -> None:
    """The candidate always says its new token, as a model with an end of turn of its own."""
    pair = ending(tiny_models, tmp_path, 20.0)

    (score,) = score_prompts(pair, ["Hi"], num_continuations=2, max_new_tokens=4)
    (shown,) = compare_tokens(pair, "Hi", [271])

    assert score.continuations.candidate == ((271,), (271,))
    assert pair.chat.text([271]) == ""
    assert 10 < score.measurement.reverse < 16.7
    assert shown.text == shown.candidate_top[0][0] == ADDED_TOKEN
    assert (shown.reference_p, shown.candidate_p) == pytest.approx((2**-24, 1.0), rel=0.01)

    case = Case(input="Hi")
    stored = stored_tokens(case.id, score)
    check_stored(pair, case, stored)
    with pytest.raises(MeasurementError, match="stored token id 271 is outside"):
        check_stored(pair, case, stored.model_copy(update={"candidate": [[271, 5]]}))


def test_rows_that_go_on_are_decoded_beside_one_that_ended(
    tiny_models: Path, tmp_path: Path
) -> None:
    pair = ending(tiny_models, tmp_path, math.log(271))  # half of the steps end a continuation

    (score,) = score_prompts(pair, ["Hi"], num_continuations=16, max_new_tokens=4)

    lengths = {len(ids) for ids in score.continuations.candidate}
    assert {1, 4} <= lengths
    assert all(271 not in ids[:-1] for ids in score.continuations.candidate)
    check_trains(pair, objective="continuation", continuation_length=3)
