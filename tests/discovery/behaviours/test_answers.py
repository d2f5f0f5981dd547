"""An answer knows which of its tokens hold which of its characters."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from pytest_divergence.discovery.behaviours.answers import Answer
from pytest_divergence.scoring.scorer import score_greedily
from tests.models_in_memory import tiny_pair

ANSWER = Answer("one two three", (5, 6, 7), (3, 7, 13), (0.5, 4.0, -1.0))


@pytest.mark.parametrize(
    ("start", "end", "tokens"),
    [(0, 3, range(1)), (4, 7, range(1, 2)), (2, 8, range(3)), (0, 13, range(3))],
)
def test_tokens_of_a_passage(start: int, end: int, tokens: range) -> None:
    assert ANSWER.tokens_of(start, end) == tokens
    assert ANSWER.peak(start, end) == max(ANSWER.log_ratios[number] for number in tokens)


def test_an_answer_survives_a_journal() -> None:
    assert Answer.from_row(json.loads(json.dumps(asdict(ANSWER)))) == ANSWER


def test_a_token_without_a_log_ratio_is_refused() -> None:
    with pytest.raises(ValueError, match="2 tokens, but 1 log-ratios"):
        Answer.of(tiny_pair().chat, [5, 6], [0.1])


def test_log_ratios_are_zero_between_equal_models_and_sum_to_the_answers_own() -> None:
    same, other = tiny_pair(perturb=0.0), tiny_pair()

    (equal,) = score_greedily(same, ["Tell me a story."], max_new_tokens=5)
    (score,) = score_greedily(other, ["Tell me a story."], max_new_tokens=5)

    assert equal.log_ratios == pytest.approx([0.0] * len(equal.log_ratios), abs=1e-5)
    answer = Answer.of(other.chat, score.continuations.candidate[0], score.log_ratios)
    assert len(answer.log_ratios) == len(answer.token_ids)
    assert answer.text == other.chat.text(answer.token_ids)
    assert any(abs(value) > 1e-4 for value in answer.log_ratios)
