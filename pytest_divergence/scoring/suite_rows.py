"""Rows of a suite measured: on their stored continuations, or on fresh ones as a search confirms.

The same models, sizes and seed give a row that a search has measured its old numbers again. Does
not know which bound a row has, nor which session asks.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

from pytest_divergence.core.behaviours import Retelling, TellingContinuation
from pytest_divergence.core.cases import Case, Completions, Measurement
from pytest_divergence.core.errors import MeasurementError, PromptIdsError
from pytest_divergence.core.file_names import TOKENS, sidecar_path
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.core.token_statistics import ControlTokens
from pytest_divergence.core.tokens import StoredTokens, prompt_digest
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.continuations import Continuations, greedy_continuations
from pytest_divergence.scoring.control_tokens import control_tokens
from pytest_divergence.scoring.scorer import score_prompts, stored_tokens
from pytest_divergence.scoring.teacher_forcing import ScoringRow, continuation_log_probs

MIN_COMPLETION_LENGTH = 32
"""Tokens of a completion that people read."""
CASE_STREAM, CONTROL_STREAM = "confirmation", "controls"
"""Random streams of the searches' own measurements of cases and controls."""
NOTHING_TO_MEASURE = (
    "no answer that showed this behaviour is stored, so it cannot be measured again; search again, "
    "or accept it"
)
"""Message on a behaviour that gates and that no replay can judge."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Sizes:
    """Sizes of one row's measurement."""

    metric: MetricName
    num_continuations: int
    max_new_tokens: int


@dataclass(frozen=True)
class Remeasured:
    """New measurement of one row."""

    measurement: Measurement
    stored: StoredTokens
    completions: Completions
    answer: tuple[int, ...]
    """The candidate's completion as token ids."""


@dataclass(frozen=True)
class ReplayedCase:
    """Measurement of one replayed case."""

    measurement: Measurement
    continuations: Continuations
    same_top_share: float
    """Share of positions at which both models would choose the same token."""
    tokens: ControlTokens | None = None
    """Divergence at each token of a control row."""


def case_prompt(case: Case) -> Prompt:
    """Return the prompt of a case as the models take it.

    Raises MeasurementError for what this version would measure as another prompt.
    """
    if case.template_arguments:
        raise MeasurementError(
            f"case {case.id} has template_arguments, which this pytest-divergence cannot pass to a "
            "chat template; upgrade it: pip install --upgrade pytest-divergence"
        )
    return case.turns if case.messages is not None else case.text


def measure_afresh(
    pair: ModelPair, rows: Sequence[Case], sizes_of: Callable[[Case], Sizes], *, seed: int
) -> dict[str, Remeasured | Exception]:
    """Measure rows on fresh continuations of both models.

    Returns, by id, the measurement or the error of each row; an error stops no other row.
    """
    groups: defaultdict[tuple[Sizes, str], list[Case]] = defaultdict(list)
    for row in rows:
        groups[sizes_of(row), CONTROL_STREAM if row.is_control else CASE_STREAM].append(row)
    found: dict[str, Remeasured | Exception] = {}
    for (sizes, stream), group in groups.items():
        measure = partial(measure_rows, pair, sizes, row_seed(seed, stream))
        found |= _one_by_one_where_it_fails(group, measure)
    return found


def measure_rows(
    pair: ModelPair, sizes: Sizes, seed: int, rows: Sequence[Case]
) -> list[Remeasured]:
    """Measure each row on fresh continuations, with both greedy answers, for a suite to keep."""
    prompts = [case_prompt(row) for row in rows]
    length = max(MIN_COMPLETION_LENGTH, sizes.max_new_tokens)
    with pair.reuse_prompts():
        scores = score_prompts(
            pair,
            prompts,
            metric=sizes.metric,
            num_continuations=sizes.num_continuations,
            max_new_tokens=sizes.max_new_tokens,
            seed=seed,
        )
        answers = greedy_continuations(pair, prompts, max_new_tokens=length)
    return [
        Remeasured(
            score.measurement,
            stored_tokens(row.id, score),
            Completions(
                reference=pair.chat.text(answer.reference[0]),
                candidate=pair.chat.text(answer.candidate[0]),
            ),
            answer.candidate[0],
        )
        for row, score, answer in zip(rows, scores, answers, strict=True)
    ]


def replay_cases(
    pair: ModelPair,
    cases: Sequence[Case],
    stored: Mapping[str, StoredTokens],
    *,
    metric_of: Callable[[Case], MetricName],
    num_continuations: int,
    max_new_tokens: int,
    seed: int,
) -> dict[str, ReplayedCase | Exception]:
    """Measure cases on their stored continuations; on fresh, seeded ones where none are stored.

    Returns, by id, the measurement or the error of each case; an error stops no other case. It is a
    `MeasurementError` if the prompt's ids are not those it was stored with, so that the numbers
    would not compare, or if a stored id is outside the vocabulary.

    Nothing is sampled and no bound is computed: the same file and models give the same numbers.
    """
    found: dict[str, ReplayedCase | Exception] = {}
    groups: defaultdict[tuple[MetricName, bool], list[Case]] = defaultdict(list)
    for case in cases:
        try:
            if case.id in stored:
                check_stored(pair, case, stored[case.id])
            groups[metric_of(case), case.id in stored].append(case)
        except Exception as error:  # a prompt that a template refuses is that case's fault
            found[case.id] = error
    for (metric, is_stored), group in groups.items():

        def score(
            chosen: Sequence[Case], metric: MetricName = metric, is_stored: bool = is_stored
        ) -> list[ReplayedCase]:
            scores = score_prompts(
                pair,
                [case_prompt(case) for case in chosen],
                metric=metric,
                num_continuations=num_continuations,
                max_new_tokens=max_new_tokens,
                seed=seed,
                continuations=[_continuations(stored[case.id]) for case in chosen]
                if is_stored
                else None,
            )
            return [
                ReplayedCase(
                    scored.measurement,
                    scored.continuations,
                    scored.same_top_share,
                    control_tokens(scored) if case.is_control else None,
                )
                for case, scored in zip(chosen, scores, strict=True)
            ]

        found |= _one_by_one_where_it_fails(group, score)
    return found


def lost_rows(
    stored: StoredSuite, rows: Sequence[Case], *, tokens_name: str
) -> dict[str, Exception]:
    """Return an error, by id, for each measured row whose stored continuations are missing.

    A value on new continuations would not compare. A suite without provenance was written by hand
    and never had any. `tokens_name` is the file of the continuations as people know it.
    """
    if stored.provenance is None:
        return {}
    is_there = sidecar_path(stored.suite.path, TOKENS).is_file()
    why = f"{tokens_name} lacks its continuations" if is_there else f"there is no {tokens_name}"
    return {
        row.id: MeasurementError(
            f"case {row.id}: {why}. Its kl was measured on these continuations, and a value on "
            "others would not be comparable. Restore the file from the suite's source, or remove "
            "kl from the row to measure it on new continuations."
        )
        for row in rows
        if row.kl is not None and row.id not in stored.tokens
    }


def replay_behaviour(pair: ModelPair, telling: Sequence[TellingContinuation]) -> Retelling:
    """Measure a behaviour's telling answers on the tokens that show it.

    Raises `MeasurementError` without an answer, and where an id is outside the models' vocabulary.
    """
    if not telling:
        raise MeasurementError(NOTHING_TO_MEASURE)
    measured = measure_telling(pair, telling)
    pairs = list(zip(measured, telling, strict=True))
    changes = [now.log_p - then.log_p for now, then in pairs if then.log_p is not None]
    return Retelling(
        log_ratio=statistics.median(now.log_ratio for now in measured),
        found=statistics.median(then.log_ratio for then in telling),
        rate=math.exp(min(0.0, statistics.median(changes))) if changes else None,
    )


class ToldAgain(NamedTuple):
    """ln p(candidate) - ln p(reference), and ln p(candidate), of a telling answer's tokens."""

    log_ratio: float
    log_p: float


def measure_telling(pair: ModelPair, telling: Sequence[TellingContinuation]) -> list[ToldAgain]:
    """Return the log-probabilities of the tokens that show a behaviour, in nats; one an answer."""
    for told in telling:
        asked = told.prompt if isinstance(told.prompt, str) else told.prompt[-1].content
        _check_ids(pair, f"telling answer to {safe_line(asked)}", told.token_ids)
    rows = [
        ScoringRow(prefix, body, tuple(told.token_ids))
        for (prefix, body), told in zip(
            pair.prompt_rows([told.prompt for told in telling]), telling, strict=True
        )
    ]
    reference, candidate = (continuation_log_probs(side, rows) for side in pair.sides)
    return [
        ToldAgain(float((log_q - log_p)[told.start :].sum()), float(log_q[told.start :].sum()))
        for log_p, log_q, told in zip(reference, candidate, telling, strict=True)
    ]


def _one_by_one_where_it_fails(
    cases: Sequence[Case], measure: Callable[[Sequence[Case]], Sequence[Found]]
) -> dict[str, Found | Exception]:
    """Return the results of `measure` by id; it takes cases one by one if all together fail."""
    try:
        found = measure(cases)
    except Exception as error:  # a model may raise anything; which case made it do so?
        if len(cases) == 1:
            return {cases[0].id: error}
        alone = [_one_by_one_where_it_fails([case], measure) for case in cases]
        return {id_: result for results in alone for id_, result in results.items()}
    return {case.id: result for case, result in zip(cases, found, strict=True)}


def _continuations(stored: StoredTokens) -> Continuations:
    log_p = stored.candidate_log_p
    return Continuations(
        tuple(map(tuple, stored.reference)),
        tuple(map(tuple, stored.candidate)),
        None if log_p is None else tuple(map(tuple, log_p)),
    )


def check_stored(pair: ModelPair, case: Case, stored: StoredTokens) -> None:
    """Raise `MeasurementError` where stored continuations do not belong to a case's prompt now."""
    if prompt_digest(pair.chat.prompt_ids(case_prompt(case))) != stored.prompt_sha256:
        raise PromptIdsError(
            f"case {case.id}: the prompt's token ids differ from the stored ones, so the "
            "tokenizer, the chat template or the system prompt has changed. Use the suite's own "
            "(its provenance file names them), or search again."
        )
    if pair.is_served and stored.candidate_log_p is None:
        raise MeasurementError(
            f"case {case.id}: its stored continuations have no candidate_log_p, as those of suites "
            "of before, so a served or recorded model cannot be measured on them; measure the "
            f"suite again on local weights, with {setting('update')}"
        )
    for ids in (*stored.reference, *stored.candidate):
        _check_ids(pair, f"case {case.id}", ids)


def _check_ids(pair: ModelPair, what: str, ids: Sequence[int]) -> None:
    num_tokens = min(side.vocab_size for side in pair.sides)
    if (
        max(ids) >= min(side.num_outcomes for side in pair.sides)
        or max(ids[:-1], default=0) >= num_tokens
    ):
        raise MeasurementError(
            f"{what}: stored token id {max(ids)} is outside the models' vocabulary of "
            f"{num_tokens} tokens; the suite belongs to other models"
        )
