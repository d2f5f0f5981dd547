"""A stored case, measured again on the continuations stored with it.

Nothing is sampled and no bound is computed: the same file and models give the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_divergence.core.behaviours import TellingContinuation
from pytest_divergence.core.cases import Case, Measurement
from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.report import TokenComparison
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.tokens import StoredTokens, prompt_digest
from pytest_divergence.models.chat import Prompt
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.comparison import compare_tokens
from pytest_divergence.scoring.scorer import Continuations, score_prompts
from pytest_divergence.scoring.tokens import ScoringRow, score_tokens


@dataclass(frozen=True)
class ReplayedCase:
    """What replaying one case measured."""

    measurement: Measurement
    continuations: Continuations
    tokens: list[TokenComparison]
    """Along the candidate's first continuation."""


def case_prompt(case: Case) -> Prompt:
    """The prompt of a case as the models take it."""
    return case.turns if case.messages is not None else case.text


def replay_case(
    pair: ModelPair,
    case: Case,
    stored: StoredTokens | None,
    *,
    metric: MetricName,
    num_continuations: int,
    max_new_tokens: int,
    seed: int,
) -> ReplayedCase:
    """Measure a case on its stored continuations; on fresh, seeded ones where none are stored.

    Raises `MeasurementError` where the prompt's ids are not those of the stored case, so that the
    numbers would not compare, or where a stored id is outside the vocabulary.
    """
    prompt = case_prompt(case)
    continuations = None
    if stored is not None:
        _check_stored(pair, case, prompt, stored)
        continuations = [
            Continuations(tuple(map(tuple, stored.reference)), tuple(map(tuple, stored.candidate)))
        ]
    score = score_prompts(
        pair,
        [prompt],
        metric=metric,
        num_continuations=num_continuations,
        max_new_tokens=max_new_tokens,
        seed=seed,
        continuations=continuations,
    )[0]
    tokens = compare_tokens(pair, prompt, score.continuations.candidate[0])
    return ReplayedCase(score.measurement, score.continuations, tokens)


def replay_behaviour(pair: ModelPair, telling: TellingContinuation) -> float:
    """ln p(candidate) - ln p(reference) of a behaviour's telling continuation, in nats.

    Raises `MeasurementError` where an id is outside the models' vocabulary.
    """
    _check_ids(pair, f"telling continuation of {safe_line(telling.prompt)}", telling.token_ids)
    ((prefix, body),) = pair.prompt_rows([telling.prompt])
    (scores,) = score_tokens(pair, [ScoringRow(prefix, body, tuple(telling.token_ids))])
    return float((scores.candidate_logprobs - scores.reference_logprobs).double().sum())


def _check_stored(pair: ModelPair, case: Case, prompt: Prompt, stored: StoredTokens) -> None:
    if prompt_digest(pair.chat.prompt_ids(prompt)) != stored.prompt_sha256:
        raise MeasurementError(
            f"case {case.id}: the prompt's token ids are not those it was stored with, so the "
            "tokenizer, the chat template or the system prompt has changed. Use the suite's own "
            "(its provenance file names them), or search again."
        )
    for ids in (*stored.reference, *stored.candidate):
        _check_ids(pair, f"case {case.id}", ids)


def _check_ids(pair: ModelPair, what: str, ids: Sequence[int]) -> None:
    if max(ids) >= pair.reference.vocab_size:
        raise MeasurementError(
            f"{what}: stored token id {max(ids)} is outside the models' vocabulary of "
            f"{pair.reference.vocab_size} tokens; the suite belongs to other models"
        )
