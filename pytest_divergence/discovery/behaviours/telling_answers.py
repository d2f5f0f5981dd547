"""Telling answers: those of the candidate that a replay measures again, to see a behaviour go.

Does not know what a replay decides (`pytest_divergence.core.behaviours.Retelling`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pytest_divergence.core.behaviours import TellingContinuation
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.descriptions import first_of_each_prompt, shown_by
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis, log_ratio_of
from pytest_divergence.discovery.behaviours.hypothesis_tests import ConfirmedBehaviour
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.scoring.suite_rows import measure_telling

NUM_TELLING = 8
"""Answers that a replay measures again, at most."""


def telling(hypothesis: Hypothesis, shown: Sequence[AnsweredPrompt]) -> list[TellingContinuation]:
    """Return answers up to where they show the behaviour: 8 prompts, evenly by log-ratio."""
    ranked = sorted(
        first_of_each_prompt(shown),
        key=lambda prompt: (log_ratio_of(hypothesis, prompt.candidate), prompt.prompt),
    )
    places = np.linspace(0, len(ranked) - 1, min(NUM_TELLING, len(ranked)))
    return [_told(hypothesis, ranked[round(place)]) for place in places]


def _told(hypothesis: Hypothesis, shown: AnsweredPrompt) -> TellingContinuation:
    answer = shown.candidate
    start, end = hypothesis.place(answer)
    own = answer.tokens_of(start, end)
    return TellingContinuation(
        prompt=shown.prompt,
        text=answer.text[:end],
        token_ids=list(answer.token_ids[: own.stop]),
        start=own.start,
        log_ratio=log_ratio_of(hypothesis, answer),
    )


def with_telling_answers(
    ledger: Ledger, confirmed: Sequence[ConfirmedBehaviour], evidence: AnsweredPrompts
) -> list[ConfirmedBehaviour]:
    """Return each behaviour with its telling answers; a phrase's are measured, a work unit each.

    A trait is shown by a whole answer, whose probability says nothing of how often it is shown.
    Questions about a phrase's words give answers where no other prompt showed it: a changed fact.
    """
    return [
        with_telling_answers_to(
            ledger,
            known,
            shown_by(known.hypothesis, evidence.answered)
            or shown_by(known.hypothesis, evidence.probed),
        )
        for known in confirmed
    ]


def with_telling_answers_to(
    ledger: Ledger, known: ConfirmedBehaviour, shown: Sequence[AnsweredPrompt]
) -> ConfirmedBehaviour:
    """Return a behaviour with its telling answers, of those that have `shown` it.

    Of a behaviour under a context the prompts of `shown` are the user's texts; a replay asks the
    whole prompt.
    """
    found, context = telling(known.hypothesis, shown), known.behaviour.context
    if context is not None:
        found = [
            told.model_copy(update={"prompt": context.prompt(str(told.prompt))}) for told in found
        ]
    if known.hypothesis.trait is None:
        found = _measured(ledger, known.behaviour.id, found)
    return known.with_changes(telling=found)


def _measured(
    ledger: Ledger, id_: str, answers: Sequence[TellingContinuation]
) -> list[TellingContinuation]:
    told = [each.model_dump() for each in answers]
    found = ledger.result(WorkUnit.of(f"behaviour/{id_}/telling", _measure, answers=told))
    return [
        each.model_copy(update={"log_ratio": log_ratio, "log_p": log_p})
        for each, (log_ratio, log_p) in zip(answers, found, strict=True)
    ]


def _measure(worker: Worker, *, answers: Sequence[dict[str, object]]) -> list[list[float]]:
    telling = [TellingContinuation.model_validate(told) for told in answers]
    return [list(found) for found in measure_telling(worker.pair, telling)]
