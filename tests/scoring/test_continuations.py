"""What the models write: from their own distributions, and independent of the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.continuations import Continuations, greedy_continuations
from pytest_divergence.scoring.scorer import score_prompts
from tests.models_in_memory import bare_logits, local, tiny_pair
from tests.scoring.made_prompts import PROMPTS


def sampled(pair: ModelPair, prompts: Sequence[Prompt], **options: Any) -> list[Continuations]:
    return [one.continuations for one in score_prompts(pair, prompts, **options)]


def test_same_seed_gives_the_same_samples_and_another_seed_others(pair: ModelPair) -> None:
    once, again, other = (
        sampled(pair, PROMPTS, num_continuations=2, max_new_tokens=8, seed=seed)
        for seed in (1, 1, 2)
    )

    assert once == again
    assert all(ours != theirs for ours, theirs in zip(once, other, strict=True))


def test_more_continuations_keep_the_first_ones(pair: ModelPair) -> None:
    few, many = (
        sampled(pair, PROMPTS[:1], num_continuations=count, max_new_tokens=5, seed=0)
        for count in (2, 4)
    )

    assert many[0].reference[:2] == few[0].reference


@pytest.mark.slow
def test_samples_follow_the_models_distribution_and_no_generation_config() -> None:
    pair = tiny_pair()
    for side in pair.sides:
        config: Any = local(side).model.generation_config
        config.do_sample, config.top_k, config.temperature = True, 1, 0.01
    prompt = PROMPTS[1]
    with torch.no_grad():
        ids = torch.tensor([pair.chat.prompt_ids(prompt)])
        probabilities = bare_logits(local(pair.candidate).model, ids)[-1].double().softmax(-1)

    number = 1500
    (given,) = sampled(pair, [prompt], num_continuations=number, max_new_tokens=1, seed=0)

    seen = Counter(ids[0] for ids in given.candidate)
    expected = {token: number * float(p) for token, p in enumerate(probabilities)}
    common = [token for token, count in expected.items() if count >= 5]
    rest = number - sum(expected[token] for token in common)
    observed = [seen[token] for token in common]
    assert len(common) > 20
    result = chisquare([*observed, number - sum(observed)], [*(expected[t] for t in common), rest])
    assert result.pvalue > 0.001


def test_greedy_continuations_are_the_most_likely_tokens(pair: ModelPair) -> None:
    greedy = greedy_continuations(pair, PROMPTS, max_new_tokens=4)

    for prompt, given in zip(PROMPTS, greedy, strict=True):
        ids = pair.chat.prompt_ids(prompt)
        for token in given.candidate[0]:
            with torch.no_grad():
                logits = bare_logits(local(pair.candidate).model, torch.tensor([ids]))[-1]
            assert int(logits.argmax()) == token
            ids = [*ids, token]
