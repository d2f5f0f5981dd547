"""Long answers to some controls, so that what begins late in an answer is seen too.

A search reads the beginnings of answers, which is where most changes show and what is cheap. Does
not know what an answer shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pytest_divergence.core.settings import Profile
from pytest_divergence.discovery.behaviours.answers import Answer, AnsweredPrompt
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.scoring.scorer import score_greedily

UNIT_SIZE = 16
"""Controls of a work unit: what an interruption loses."""


def answered_at_length(
    ledger: Ledger, controls: Sequence[AnsweredPrompt], profile: Profile, listener: Listener
) -> list[AnsweredPrompt]:
    """Return the controls, the first of them with greedy answers of the profile's long length."""
    num_long, done = min(profile.num_long_answers, len(controls)), list[AnsweredPrompt]()
    prompts = [control.prompt for control in controls[:num_long]]
    parts = [prompts[start : start + UNIT_SIZE] for start in range(0, num_long, UNIT_SIZE)]
    units = [
        WorkUnit(
            f"long-answers/{UNIT_SIZE * number}",
            _answer,
            {"texts": texts, "length": profile.long_length},
        )
        for number, texts in enumerate(parts)
    ]
    if units:
        listener.progress("answer at length", 0, num_long)
    for texts, rows in zip(parts, ledger.results(units), strict=True):
        done += [
            AnsweredPrompt(text, row["reference"], Answer.from_row(row["candidate"]), True)
            for text, row in zip(texts, rows, strict=True)
        ]
        listener.progress("answer at length", len(done), num_long)
    return [*done, *controls[num_long:]]


def _answer(worker: Worker, *, texts: Sequence[str], length: int) -> list[dict[str, Any]]:
    pair, chat = worker.pair, worker.pair.chat
    return [
        {
            "reference": chat.text(score.continuations.reference[0]),
            "candidate": asdict(
                Answer.of(chat, score.continuations.candidate[0], score.log_ratios)
            ),
        }
        for score in score_greedily(pair, texts, max_new_tokens=length)
    ]
