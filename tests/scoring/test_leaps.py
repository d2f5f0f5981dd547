"""The largest leap at the start of an answer, beside one computed by hand from bare logits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import LEAST_LOG_PROB, first_token_scores
from pytest_divergence.scoring.leaps import LIKELY, NUM_POSITIONS, Leap, largest_leaps
from tests.models_in_memory import RULED_OUT, bare_logits, local, tiny_pair
from tests.scoring.made_prompts import PROMPTS

EXACT = 1e-3
"""Logits are eight times those of other tests, and so is what float32 rounds."""


@pytest.fixture(scope="module")
def sure() -> ModelPair:
    """A pair whose answers are likely, as those of trained models are."""
    pair = tiny_pair()
    with torch.no_grad():
        for side in pair.sides:
            model: Any = local(side).model
            model.lm_head.weight.mul_(8)
    return pair


def by_hand(pair: ModelPair, prompt: str) -> tuple[float, list[int]]:
    """The largest ln q - ln p on the candidate's greedy answer, and the ids that lead to it."""
    ids, answer = list(pair.chat.prompt_ids(prompt)), list[int]()
    best, opening = 0.0, list[int]()
    for _ in range(NUM_POSITIONS):
        context = torch.tensor([[*ids, *answer]])
        with torch.no_grad():
            p, q = (bare_logits(local(side).model, context)[-1].softmax(-1) for side in pair.sides)
        for token in (q >= LIKELY).nonzero()[:, 0].tolist():
            leap = float(q[token].log()) - max(float(p[token].log()), LEAST_LOG_PROB)
            if leap > best:
                best, opening = leap, [*answer, token]
        answer.append(int(q.argmax()))
        if answer[-1] in pair.chat.stop_ids:
            break
    return best, opening


def leaps_on(pair: ModelPair, prompts: list[str]) -> list[Leap]:
    return largest_leaps(pair, pair.prompt_rows(prompts))


def test_a_leap_is_the_largest_log_ratio_of_a_likely_token(sure: ModelPair) -> None:
    prompts = [*map(str, PROMPTS), "How do I tie a knot?", "Tell me about sea birds."]

    found = leaps_on(sure, prompts)

    expected = [by_hand(sure, prompt) for prompt in prompts]
    assert [leap.nats for leap in found] == pytest.approx([nats for nats, _ in expected], abs=EXACT)
    assert [list(leap.opening) for leap in found] == [opening for _, opening in expected]
    assert len({len(leap.opening) for leap in found}) > 1, "leaps are not all at one position"
    first = first_token_scores(sure, prompts, metric="js")
    assert [leap.first_token_js for leap in found] == pytest.approx(first, abs=EXACT)


def test_both_models_read_a_prompt_once(sure: ModelPair) -> None:
    rows = sure.prompt_rows(["How do I tie a knot?"])
    leaps_on(sure, ["Why?"])  # the shared prefix is read already
    before = sure.tokens_forwarded

    largest_leaps(sure, rows)

    assert sure.tokens_forwarded - before <= 2 * (len(rows[0][1]) + NUM_POSITIONS - 1)


def test_a_token_that_the_reference_rules_out_is_a_finite_leap() -> None:
    pair = tiny_pair(perturb=0.0)
    (leap,) = leaps_on(pair, ["Why?"])
    assert leap.nats < 1e-5, "a model does not leap from itself"

    def bias(role: int, value: float) -> None:
        model: Any = local(pair.sides[role]).model
        head = model.lm_head
        head.bias = torch.nn.Parameter(torch.zeros(head.weight.shape[0]), requires_grad=False)
        head.bias[RULED_OUT] = value

    bias(0, -torch.inf)
    bias(1, 50.0)

    (leap,) = leaps_on(pair, ["Why?"])

    assert leap.nats == pytest.approx(-LEAST_LOG_PROB, abs=EXACT)
    assert leap.opening == (RULED_OUT,)
    assert leap.first_token_js == pytest.approx(math.log(2), abs=EXACT)
