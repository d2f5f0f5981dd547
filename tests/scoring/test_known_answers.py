"""Margins of known answers: above 0 where decoding writes the answer, and as a bare model reads."""

from __future__ import annotations

import pytest
import torch

from pytest_divergence.core.damage_record import KnownAnswer
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.continuations import greedy_continuations
from pytest_divergence.scoring.known_answers import answer_margins
from tests.models_in_memory import bare_logits, local, tiny_model
from tests.scoring.made_prompts import PROMPTS
from tests.tiny import tiny_tokenizer


def bare_log_probs(
    pair: ModelPair, side: int, prompt: str, opening: str, text: str
) -> torch.Tensor:
    """ln P of all tokens (T, V) where the text stands after the opening, by nothing but a model."""
    encode = pair.chat.tokenizer.encode
    before = [*pair.chat.prompt_ids(prompt), *encode(opening, add_special_tokens=False)]
    ids = encode(opening + text, add_special_tokens=False)
    whole = torch.tensor([[*pair.chat.prompt_ids(prompt), *ids]])
    logits = bare_logits(local(pair.sides[side]).model, whole)
    return logits[len(before) - 1 : -1].log_softmax(-1)


def test_a_margin_is_above_0_where_decoding_writes_the_answer(pair: ModelPair) -> None:
    prompts = [f"What is {number} + {number}?" for number in range(60)]
    written = greedy_continuations(pair, prompts, max_new_tokens=1)
    tokenizer = pair.chat.tokenizer
    firsts = [
        (prompt, ids, both)
        for prompt, both in zip(prompts, written, strict=True)
        for ids in {both.reference[0], both.candidate[0]}
        if tuple(tokenizer.encode(tokenizer.decode([*ids]))) == ids  # not half a character
    ]

    found = answer_margins(
        pair,
        [KnownAnswer(input=prompt, answer=tokenizer.decode([*ids])) for prompt, ids, _ in firsts],
    )

    assert any(item.is_lost for item in found)
    assert any(item.is_won for item in found)
    for item, (_, ids, both) in zip(found, firsts, strict=True):
        assert (item.reference_margin > 0) == (both.reference[0] == ids)
        assert (item.candidate_margin > 0) == (both.candidate[0] == ids)


def test_margins_are_those_of_a_bare_model(pair: ModelPair) -> None:
    opening, answer, others = "It is ", "red.", ("blue.", "a colour")
    free = [KnownAnswer(input=prompt, opening=opening, answer=answer) for prompt in PROMPTS]
    chosen = [
        KnownAnswer(input=prompt, opening=opening, answer=answer, choices=(*others, answer))
        for prompt in PROMPTS
    ]
    together = answer_margins(pair, [*free, *chosen])

    for prompt, item, choice in zip(PROMPTS, together, together[len(free) :], strict=False):
        margins, sums = [], []
        for text in (answer, *others):
            log_p = bare_log_probs(pair, 1, prompt, opening, text)
            ids = pair.chat.tokenizer.encode(opening + text, add_special_tokens=False)
            index = torch.tensor(ids[-len(log_p) :])[:, None]
            own = log_p.gather(-1, index)[:, 0]
            sums.append(float(own.sum()))
            margins.append(float((own - log_p.scatter(-1, index, -torch.inf).amax(-1)).min()))
        assert item.candidate_margin == pytest.approx(margins[0], abs=1e-4)
        assert choice.candidate_margin == pytest.approx(sums[0] - max(sums[1:]), abs=1e-4)


def test_a_model_and_its_copy_lose_and_win_nothing() -> None:
    pair = ModelPair.from_models(tiny_model(), tiny_model(), tiny_tokenizer())
    items = [KnownAnswer(input=prompt, answer="yes") for prompt in PROMPTS]

    for item in answer_margins(pair, items):
        assert item.reference_margin == item.candidate_margin
        assert not item.is_lost
        assert not item.is_won


def test_an_item_that_is_too_long_is_named(pair: ModelPair) -> None:
    with pytest.raises(MeasurementError, match=r'the item "zz.* tokens with its answer'):
        answer_margins(pair, [KnownAnswer(input="z" * 5000, answer="yes")])
