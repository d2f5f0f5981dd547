"""What one reading of a prompt tells: its own words, and the first tokens of its answer."""

from __future__ import annotations

import pytest
import torch

from pytest_divergence.core.cases import Message
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import (
    NEVER,
    beginning,
    first_token_scores,
    prompt_nlls,
    screen,
)
from pytest_divergence.scoring.teacher_forcing import ScoringRow, score_tokens
from tests.models_in_memory import bare_logits, local, tiny_pair
from tests.scoring.made_prompts import PROMPTS

ASKED = ["How do I tie a knot?", "Tell me about sea birds.", "Why?"]


def test_without_an_aim_the_first_divergence_promises(pair: ModelPair) -> None:
    screened = screen(pair, ASKED, metric="forward")

    expected = first_token_scores(pair, ASKED, metric="forward")
    assert [one.promise for one in screened] == pytest.approx(expected, abs=1e-6)
    assert [one.first_token_kl for one in screened] == pytest.approx(expected, abs=1e-6)


def test_with_an_aim_the_log_ratio_of_its_beginning_does(pair: ModelPair) -> None:
    screened = screen(pair, ASKED, metric="symmetric", aim="Access granted")

    ids = tuple(beginning(pair, "Access granted"))
    assert len(ids) == 3
    rows = [ScoringRow(*row, ids) for row in pair.prompt_rows(ASKED)]
    expected = [
        float(one.candidate_logprobs.sum() - one.reference_logprobs.sum().clamp(min=NEVER))
        for one in score_tokens(pair, rows)
    ]
    assert [one.promise for one in screened] == pytest.approx(expected, abs=1e-6)
    first = first_token_scores(pair, ASKED)
    assert [one.first_token_kl for one in screened] == pytest.approx(first, abs=1e-5)


def test_a_model_against_itself_promises_nothing() -> None:
    same = tiny_pair(perturb=0.0)

    for one in screen(same, ASKED, metric="symmetric", aim="Access"):
        assert one.first_token_kl == pytest.approx(0.0, abs=1e-6)
        assert one.promise < 1e-5


EXACT = 1e-5


def test_prompt_nll_is_of_the_users_tokens_only_whatever_the_batch(pair: ModelPair) -> None:
    conversation = [Message(role="system", content="Be brief."), Message(role="user", content="Hi")]
    prompts: list[Prompt] = [*PROMPTS, conversation]
    prompt = PROMPTS[1]
    ids = pair.chat.prompt_ids(prompt)
    user_ids = pair.chat.tokenizer.encode(prompt, add_special_tokens=False)
    start = len(pair.chat.user_opening)
    assert ids[start : start + len(user_ids)] == user_ids
    with torch.no_grad():
        logprobs = bare_logits(local(pair.reference).model, torch.tensor([ids])).log_softmax(-1)
    picked = [float(logprobs[start - 1 + i, token]) for i, token in enumerate(user_ids)]

    nll = prompt_nlls(pair, pair.reference, prompts)[1]

    assert nll == pytest.approx(-sum(picked) / len(picked), abs=EXACT)
    base = tiny_pair(chat_template=None)
    assert prompt_nlls(base, base.reference, [""]) == [0.0], "a base model's empty prompt"
