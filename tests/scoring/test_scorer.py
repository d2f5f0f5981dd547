"""The measurement of prompts: independent of the batch, and equal to a bare loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MistralConfig

from pytest_divergence.core.cases import Message
from pytest_divergence.core.errors import NonFiniteLogitsError
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring import continuations as continuations_module
from pytest_divergence.scoring import teacher_forcing as tokens_module
from pytest_divergence.scoring.cheap_scores import first_token_scores
from pytest_divergence.scoring.continuations import Continuations
from pytest_divergence.scoring.scorer import PromptScore, score_prompts
from tests.models_in_memory import bare_logits, local, tiny_config, tiny_model, tiny_pair
from tests.scoring.made_prompts import PROMPTS
from tests.tiny import tiny_tokenizer

EXACT = 1e-5
ARCHITECTURES = ["llama", "gpt_neox", "gpt2", "gemma"]


@pytest.fixture(scope="module")
def scores(pair: ModelPair) -> list[PromptScore]:
    return score(pair, PROMPTS)


def score(pair: ModelPair, prompts: Sequence[Prompt], **changes: Any) -> list[PromptScore]:
    options = {"num_continuations": 2, "max_new_tokens": 6, **changes}
    return score_prompts(pair, prompts, **options)


def assert_same(left: PromptScore, right: PromptScore) -> None:
    assert left.continuations == right.continuations
    for name in ("value", "forward", "reverse", "js", "sd", "max_token"):
        ours, theirs = (getattr(one.measurement, name) for one in (left, right))
        assert ours == pytest.approx(theirs, abs=EXACT), name
    assert left.reference_perplexity == pytest.approx(right.reference_perplexity, rel=1e-4)


def test_a_prompt_alone_reads_as_in_a_batch(pair: ModelPair, scores: list[PromptScore]) -> None:
    for prompt, together in zip(PROMPTS, scores, strict=True):
        assert_same(score(pair, [prompt])[0], together)


def test_the_micro_batch_does_not_matter(
    pair: ModelPair, scores: list[PromptScore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "SCORING_BATCH", 3)
    monkeypatch.setattr(continuations_module, "PROMPTS_IN_FLIGHT", 3)

    for again, before in zip(score(pair, PROMPTS), scores, strict=True):
        assert_same(again, before)


def test_prefix_sharing_does_not_matter_past_a_sliding_window() -> None:
    config = tiny_config(MistralConfig, sliding_window=8)
    models = tiny_model(config=config), tiny_model(config=config, perturb=0.3)
    shared, unshared = (
        ModelPair.from_models(*models, tiny_tokenizer(), system_prompt="Be brief. " * 3)
        for _ in range(2)
    )
    for side in unshared.sides:
        local(side)._prefixes.are_shared = False
    assert len(shared.chat.shared_prefix) > 8

    for ours, theirs in zip(score(shared, PROMPTS[:2]), score(unshared, PROMPTS[:2]), strict=True):
        assert_same(ours, theirs)


def test_a_prompt_outside_the_shared_format_changes_no_other(
    pair: ModelPair, scores: list[PromptScore]
) -> None:
    conversation = [Message(role="system", content="Be brief."), Message(role="user", content="Hi")]

    assert_same(score(pair, [conversation, PROMPTS[1]])[1], scores[1])
    one_turn = [Message(role="user", content=PROMPTS[1])]
    assert_same(score(pair, [one_turn])[0], scores[1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_agrees_with_a_bare_transformers_loop(architecture: str) -> None:
    """Which shares no prefix of prompts; and a model agrees with itself."""
    pair = tiny_pair(architecture)

    for measured in score(pair, PROMPTS[:3]):
        forward = bare_kl(pair, measured, measured.continuations.reference)[0]
        reverse = bare_kl(pair, measured, measured.continuations.candidate)[1]
        assert measured.measurement.forward == pytest.approx(forward, abs=EXACT)
        assert measured.measurement.reverse == pytest.approx(reverse, abs=EXACT)
        assert measured.measurement.value == pytest.approx((forward + reverse) / 2, abs=EXACT)
        assert measured.measurement.value > 0.01
    for measured in score(tiny_pair(architecture, perturb=0.0), PROMPTS[:3]):
        assert abs(measured.measurement.value) <= 1e-6
        assert measured.same_top_share == 1.0


@torch.no_grad()
def bare_kl(
    pair: ModelPair, score: PromptScore, continuations: tuple[tuple[int, ...], ...]
) -> tuple[float, float]:
    """KL in both directions per token of these continuations, one unpadded row at a time."""
    assert isinstance(score.prompt, str)
    messages = [{"role": "user", "content": score.prompt}]
    rendered: Any = pair.chat.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    forward = reverse = 0.0
    for continuation in continuations:
        ids = torch.tensor([[*rendered, *continuation]])
        log_p, log_q = (
            bare_logits(local(side).model, ids)[len(rendered) - 1 : -1].double().log_softmax(-1)
            for side in pair.sides
        )
        forward += float((log_p.exp() * (log_p - log_q)).sum())
        reverse += float((log_q.exp() * (log_q - log_p)).sum())
    length = sum(map(len, continuations))
    return forward / length, reverse / length


def test_perplexity_is_each_models_on_its_own_continuations(pair: ModelPair) -> None:
    measured = score(pair, PROMPTS[:1])[0]
    logprobs = []
    for continuation in measured.continuations.candidate:
        ids = torch.tensor([[*measured.prompt_ids, *continuation]])
        with torch.no_grad():
            rows = bare_logits(local(pair.candidate).model, ids)[len(measured.prompt_ids) - 1 : -1]
        logprobs += rows.log_softmax(-1)[range(len(continuation)), continuation].tolist()

    expected = math.exp(-sum(logprobs) / len(logprobs))
    assert measured.candidate_perplexity == pytest.approx(expected, rel=1e-4)


def test_the_end_of_turn_token_is_kept_and_measured(pair: ModelPair) -> None:
    talkative = replace(pair, chat=replace(pair.chat, stop_ids=frozenset(range(0, 271, 3))))

    measured = score(talkative, PROMPTS, num_continuations=4, max_new_tokens=12)

    stop_ids, lengths = talkative.chat.stop_ids, set()
    for one in measured:
        rows = (*one.continuations.reference, *one.continuations.candidate)
        for ids in rows:
            assert not stop_ids & set(ids[:-1])
            assert len(ids) == 12 or ids[-1] in stop_ids
            lengths.add(len(ids))
        assert one.measurement.num_tokens == sum(map(len, rows))
    assert min(lengths) < 12


@pytest.mark.parametrize("role", ["reference", "candidate"])
def test_nan_weights_are_an_error_that_names_the_model(role: str) -> None:
    pair = tiny_pair()
    with torch.no_grad():
        getattr(pair, role).model.lm_head.weight[5] = torch.nan

    with pytest.raises(NonFiniteLogitsError, match=f"^the {role} returned logits that are not"):
        score(pair, PROMPTS[:2])


def test_a_token_that_both_models_rule_out_is_no_error(pair: ModelPair) -> None:
    def rule_out(module: object, inputs: object, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, torch.tensor([7]), -torch.inf)

    twin = ModelPair.from_models(
        copy.deepcopy(local(pair.reference).model),
        copy.deepcopy(local(pair.candidate).model),
        tiny_tokenizer(),
    )
    for side in twin.sides:
        head: Any = local(side).model.lm_head
        head.register_forward_hook(rule_out)

    measured = score(twin, PROMPTS)

    assert all(math.isfinite(one.measurement.value) for one in measured)
    rows = [ids for one in measured for ids in one.continuations.reference]
    assert not any(7 in ids for ids in rows)


def test_a_base_model_without_a_template_is_scored_as_plain_text() -> None:
    pair = tiny_pair(chat_template=None)

    together = score(pair, PROMPTS)

    assert pair.chat.shared_prefix == ()
    for prompt, measured in zip(PROMPTS, together, strict=True):
        assert pair.chat.tokenizer.decode(list(measured.prompt_ids[1:])) == prompt
        assert_same(score(pair, [prompt])[0], measured)


def test_counts_below_one_and_continuations_of_other_prompts_are_refused(pair: ModelPair) -> None:
    for counts in ({"num_continuations": 0}, {"max_new_tokens": 0}):
        with pytest.raises(ValueError, match=r"num_continuations=.* must be at least 1"):
            score(pair, PROMPTS, **counts)
    with pytest.raises(ValueError, match="6 prompts, but continuations for 1"):
        score(pair, PROMPTS, continuations=[Continuations(((5,),), ((5,),))])
    with pytest.raises(ValueError, match="at least one token"):
        score(pair, PROMPTS[:1], continuations=[Continuations(((),), ((5,),))])


def test_no_prompts_have_no_scores(pair: ModelPair) -> None:
    assert score(pair, []) == []
    assert first_token_scores(pair, []) == []


def test_the_first_token_score_is_that_of_the_first_position(pair: ModelPair) -> None:
    expected = score(pair, PROMPTS, num_continuations=1, max_new_tokens=1, metric="symmetric")

    for quick, full in zip(first_token_scores(pair, PROMPTS), expected, strict=True):
        assert quick == pytest.approx(full.measurement.value, abs=EXACT)
