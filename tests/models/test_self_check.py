"""A pair reads by the fastest way that gives its models' own numbers, or is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    BartConfig,
    BertConfig,
    JambaConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MptConfig,
    OpenAIGPTConfig,
    PreTrainedConfig,
    Qwen3NextConfig,
)

from pytest_divergence.core.errors import ModelLoadError, NoGradientError, NonFiniteLogitsError
from pytest_divergence.discovery.soft_prompts.training import train_soft_prompt
from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.self_check import Trial, mean_log_ratio
from pytest_divergence.models.transformers_log import quiet_transformers
from pytest_divergence.models.transformers_side import TransformersSide
from pytest_divergence.scoring.scorer import score_prompts
from tests.models_in_memory import local, tiny_config, tiny_model, tiny_pair
from tests.tiny import TOKEN_IDS, save_tiny_model, tiny_tokenizer

PREFIX = (40, 87, 85)
BODIES = [torch.arange(50, 53), torch.arange(60, 80), torch.tensor([90])]
PROMPTS = ["How do I tie a knot?", "Hi", "Name a river."]
STEPPED = "in padded batches, a token at a time"
SHARED, BATCHED = "in padded batches that share what they begin with", "in padded batches"
ALONE, ANEW = "a row at a time", "a row at a time, anew at each token"
VOCABULARY: dict[str, Any] = {"vocab_size": len(tiny_tokenizer()), **TOKEN_IDS, "pad_token_id": 3}


def mamba() -> PreTrainedConfig:
    return MambaConfig(
        hidden_size=32, state_size=8, time_step_rank=4, num_hidden_layers=2, **VOCABULARY
    )


def jamba() -> PreTrainedConfig:
    return tiny_config(
        JambaConfig,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        num_experts=4,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    )


def qwen3_next() -> PreTrainedConfig:
    return tiny_config(
        Qwen3NextConfig,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    )


def mpt() -> PreTrainedConfig:
    return MptConfig(d_model=32, n_heads=2, n_layers=2, initializer_range=0.15, **VOCABULARY)


def bart() -> PreTrainedConfig:
    return BartConfig(
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        init_std=0.15,
        is_decoder=True,
        is_encoder_decoder=False,
        **VOCABULARY,
    )


def openai_gpt() -> PreTrainedConfig:
    return OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=2, initializer_range=0.15, **VOCABULARY)


def bert(**changes: Any) -> PreTrainedConfig:
    return BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.15,
        **VOCABULARY,
        **changes,
    )


READINGS: dict[Callable[[], PreTrainedConfig], tuple[str, ...]] = {
    qwen3_next: (),
    jamba: (STEPPED, ALONE),
    mpt: (BATCHED,),
    mamba: (ALONE, ANEW),
    bart: (ALONE,),
    openai_gpt: (ANEW,),
}
"""How each family is read: by what its cache can do now, and in older versions of transformers.

Hybrids of linear attention may be read in any way: newer versions of transformers make faster ones
right.
"""
families = pytest.mark.parametrize("family", READINGS)


def pair_of(family: Callable[[], PreTrainedConfig], said: list[str] | None = None) -> ModelPair:
    return ModelPair.from_models(
        tiny_model(config=family()),
        tiny_model(config=family(), perturb=0.3),
        tiny_tokenizer(),
        say=(lambda _: None) if said is None else said.append,
    )


@torch.no_grad()
def bare(side: TransformersSide, *ids: int) -> Tensor:
    """What the model says at each token, without padding, mask, cache or anything of ours."""
    logits: Tensor = side.model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits


@families
def test_a_family_is_read_by_the_fastest_way_that_is_right(
    family: Callable[[], PreTrainedConfig],
) -> None:
    said: list[str] = []

    pair = pair_of(family, said)

    side = local(pair.reference)
    model, reading = side.model, side.reading
    assert reading == local(pair.candidate).reading
    assert reading in (READINGS[family] or (reading,))
    assert Trial(TransformersSide("reference", model)).failure(side) is None
    assert pair.tokens_forwarded == 0
    if reading == TransformersSide("reference", model).reading:  # nothing was tried before
        assert said == []
    else:
        assert [line.split(": ")[0] for line in said] == [
            f"the {role}, a {type(model).__name__}, is read {reading}, which is slower"
            for role in ("reference", "candidate")
        ]
    if family is mpt:
        assert "it differs from plain passes by 0." in said[0]


@families
@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["bare", "prefix"])
def test_each_way_gives_a_models_own_numbers(
    family: Callable[[], PreTrainedConfig], prefix: tuple[int, ...]
) -> None:
    side = local(pair_of(family).candidate)
    rows = [[*prefix, *body.tolist()] for body in BODIES]
    first, second = torch.tensor([40, 41, 42]), torch.tensor([45, 44, 43])
    given = [[70, 71, 72, 73], [74], [75, 76]]

    with torch.no_grad():
        logits = side.logits(BODIES, prefix=prefix, num_logits=3)
        positions = side.positions(BODIES, prefix=prefix, num_positions=2).logits(0, 6)
        state = side.start(BODIES, prefix=prefix)
        turned = state.fork([2, 0, 2])
        scored = state.fork([0, 1, 2]).positions_of(given)
        state.step(first)
        state.step(second)
        turned.step(first)

    for place, ids in enumerate(rows):
        exact = bare(side, *ids)
        known = min(3, len(ids))
        assert torch.allclose(logits[place, -known:], exact[-known:], atol=1e-4)
        assert torch.allclose(positions[2 * place + 1], exact[-1], atol=1e-4)
        continued = bare(side, *ids, *given[place])[len(ids) - 1 : -1]
        found = scored[place].logits(0, len(scored[place]))
        assert torch.allclose(found, continued, atol=1e-4)
        stepped = bare(side, *ids, int(first[place]), int(second[place]))
        assert torch.allclose(state.logits[place], stepped[-1], atol=1e-4)
    for place, row in enumerate([2, 0, 2]):
        assert torch.allclose(
            turned.logits[place], bare(side, *rows[row], int(first[place]))[-1], atol=1e-4
        )


@pytest.mark.parametrize("family", [mpt, bart, openai_gpt])
def test_a_slower_way_takes_time_and_no_more_of_a_budget(
    family: Callable[[], PreTrainedConfig],
) -> None:
    """In padded batches, a row at a time with a cache, and without one."""
    prompt, continuation = torch.arange(50, 60), [60, 61, 62]
    side = pair_of(family).reference
    with torch.no_grad():
        state = side.start([prompt])
        assert side.meter.tokens_forwarded == 10
        other = state.fork([0])
        state.step(torch.tensor([60]))
        assert side.meter.tokens_forwarded == 10 + 1
        other.positions_of([continuation])
        assert side.meter.tokens_forwarded == 10 + 1 + 2
        side.logits([prompt], num_logits=1)
        assert side.meter.tokens_forwarded == 10 + 1 + 2 + 10


def test_a_model_is_tried_with_its_adapter_too() -> None:
    base = tiny_model(config=mpt())
    with torch.random.fork_rng(), quiet_transformers():
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["Wqkv"], init_lora_weights=False)
        wrapped: Any = get_peft_model(base, config)
    said: list[str] = []

    pair = ModelPair.from_models(base, wrapped, tiny_tokenizer(), say=said.append)

    name = type(base).__name__
    assert [line.split(": ")[0] for line in said] == [
        f"the {role}, a {name}, is read {BATCHED}, which is slower"
        for role in ("reference", "candidate")
    ]
    with torch.no_grad():
        ids = torch.tensor([*PREFIX, 50, 51, 52])
        ours = pair.candidate.logits([ids[3:], BODIES[1]], prefix=PREFIX, num_logits=1)[0, 0]
        with local(pair.candidate).activate():
            exact = bare(local(pair.candidate), *ids.tolist())[-1]
        with local(pair.reference).activate():
            other = bare(local(pair.reference), *ids.tolist())[-1]
    assert torch.allclose(ours, exact, atol=1e-5)
    assert not torch.allclose(ours, other, atol=1e-2)


def test_an_encoder_is_refused_unless_it_is_a_decoder() -> None:
    encoder, decoder, other = (
        tiny_model(config=bert(is_decoder=is_decoder), perturb=perturb)
        for is_decoder, perturb in ((False, 0.0), (True, 0.0), (True, 0.3))
    )

    with pytest.raises(ModelLoadError) as caught:
        ModelPair.from_models(decoder, encoder, tiny_tokenizer())
    pair = ModelPair.from_models(decoder, other, tiny_tokenizer())

    assert str(caught.value).startswith(
        "the candidate, a BertLMHeadModel, is no causal language model: the tokens after a prompt "
        "change what it says of the prompt, by 0."
    )
    assert all(score.measurement.value > 0.01 for score in score_prompts(pair, PROMPTS))


def llama() -> Any:
    return tiny_config(LlamaConfig)


class Moody(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    """Says something else in a row of another length."""

    def forward(self, *args: Any, **options: Any) -> Any:
        output = super().forward(*args, **options)
        size = output.logits.shape[-1]
        turn = torch.linspace(0, 1, size) * options["input_ids"].shape[1]
        output.logits = output.logits + turn.sin()
        return output


def test_a_model_that_no_way_agrees_with_is_refused_with_the_numbers() -> None:
    with pytest.raises(ModelLoadError) as caught:
        ModelPair.from_models(tiny_model(), Moody(llama()), tiny_tokenizer())

    text = str(caught.value)
    assert text.startswith("the candidate, a Moody, cannot be measured: in padded batches ")
    assert text.count("it differs from plain passes by ") == 5


class Mute(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    """Needs more than text."""

    def forward(self, *args: Any, **options: Any) -> Any:
        raise ValueError("give pixel_values too")


def test_a_model_that_reads_no_text_alone_is_refused() -> None:
    with pytest.raises(ModelLoadError) as caught:
        ModelPair.from_models(Mute(llama()), tiny_model(), tiny_tokenizer())

    assert str(caught.value).startswith(
        "the reference, a Mute, cannot read a row of tokens: ValueError: "
        '"give pixel_values too"; choose'
    )


def test_logits_that_are_no_numbers_are_told_when_something_is_measured() -> None:
    model: Any = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan

    pair = ModelPair.from_models(model, tiny_model(), tiny_tokenizer())

    with pytest.raises(NonFiniteLogitsError, match="the reference returned logits that are not"):
        score_prompts(pair, PROMPTS)


def test_memory_that_ends_in_the_check_is_no_reason_for_a_slower_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TransformersSide, "start", full)

    with pytest.raises(torch.OutOfMemoryError):
        tiny_pair()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_models_rounding_is_no_reason_for_a_slower_way(dtype: torch.dtype) -> None:
    said: list[str] = []
    models: list[Any] = [tiny_model(), tiny_model(perturb=0.3)]
    reference, candidate = (model.to(dtype) for model in models)

    pair = ModelPair.from_models(reference, candidate, tiny_tokenizer(), say=said.append)

    assert [local(side).reading for side in pair.sides] == [SHARED, SHARED]
    assert said == []


def test_loading_says_which_way_is_slower(tmp_path: Any) -> None:
    said: list[str] = []
    folder = save_tiny_model(tmp_path)
    pair = load_model_pair(str(folder), str(folder), say=said.append)
    assert said == []
    assert local(pair.candidate).reading == SHARED

    with quiet_transformers():
        tiny_model(config=openai_gpt()).save_pretrained(tmp_path)
    pair = load_model_pair(str(folder), str(folder), say=said.append)

    assert local(pair.candidate).reading == ANEW
    assert pair.candidate.role == "candidate"
    assert [line.split(", which")[0] for line in said] == [  # one model is tried once
        "OpenAIGPTLMHeadModel has no sdpa attention, so eager attention is used",
        f"the reference, a OpenAIGPTLMHeadModel, is read {ANEW}",
    ]


def gemma4() -> PreTrainedConfig:
    return tiny_config(
        transformers.Gemma4TextConfig,
        layer_types=["sliding_attention", "full_attention"],
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=len(tiny_tokenizer()),
        global_head_dim=16,
        num_global_key_value_heads=1,
        num_kv_shared_layers=0,
    )


@pytest.mark.skipif(
    not hasattr(transformers, "Gemma4TextConfig"), reason="this transformers has no Gemma 4"
)
def test_a_model_that_looks_up_by_ids_is_searched_without_soft_prompts() -> None:
    pair = pair_of(gemma4)

    assert not local(pair.candidate).passes_gradients()
    assert pair.tokens_forwarded == 0
    assert all(score.measurement.value > 1e-3 for score in score_prompts(pair, PROMPTS))
    with pytest.raises(NoGradientError) as caught:
        train_soft_prompt(pair, TrainingConfig(num_virtual_tokens=2, num_steps=2), PROMPTS)
    assert str(caught.value).startswith(
        'the reference ("in memory: Gemma4ForCausalLM") reads only ids, and soft prompts are '
    )


def test_the_difference_is_in_nats_and_bounds_the_divergence() -> None:
    p, q = torch.tensor([0.5, 0.25, 0.25, 0.0]), torch.tensor([0.25, 0.5, 0.25, 0.0])

    assert mean_log_ratio(p.log(), q.log()) == pytest.approx(0.75 * math.log(2))
    assert mean_log_ratio(p.log(), p.log() + 3) == pytest.approx(0, abs=1e-6)
    assert mean_log_ratio(p.log(), q.log() * math.nan) == math.inf
