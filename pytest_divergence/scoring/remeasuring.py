"""Rows of a suite measured on fresh continuations, as a search confirms its cases.

The same models, sizes and seed give a row that a search has measured its old numbers again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pytest_divergence.core.cases import Case, Completions, Measurement
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.tokens import StoredTokens
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.continuations import greedy_continuations
from pytest_divergence.scoring.replay import case_prompt, one_by_one_where_it_fails
from pytest_divergence.scoring.scorer import score_prompts, stored_tokens

MIN_COMPLETION_LENGTH = 32
"""Tokens of a completion that people read."""
CASE_STREAM, CONTROL_STREAM = "confirmation", "controls"
"""Random streams of the searches' own measurements of cases and controls."""


@dataclass(frozen=True)
class Sizes:
    """How one row is measured."""

    metric: MetricName
    num_continuations: int
    max_new_tokens: int


@dataclass(frozen=True)
class Remeasured:
    """What one row reads now."""

    measurement: Measurement
    stored: StoredTokens
    completions: Completions
    answer: tuple[int, ...]
    """The candidate's completion as token ids."""


def measure_afresh(
    pair: ModelPair, rows: Sequence[Case], sizes_of: Callable[[Case], Sizes], *, seed: int
) -> dict[str, Remeasured | Exception]:
    """Measure rows on fresh continuations of both models.

    By id: what was measured, or why that was not possible, which keeps no other row from it.
    """
    groups: defaultdict[tuple[Sizes, str], list[Case]] = defaultdict(list)
    for row in rows:
        groups[sizes_of(row), CONTROL_STREAM if row.is_control else CASE_STREAM].append(row)
    found: dict[str, Remeasured | Exception] = {}
    for (sizes, stream), group in groups.items():
        measure = partial(measure_rows, pair, sizes, row_seed(seed, stream))
        found |= one_by_one_where_it_fails(group, measure)
    return found


def measure_rows(
    pair: ModelPair, sizes: Sizes, seed: int, rows: Sequence[Case]
) -> list[Remeasured]:
    """Each row on fresh continuations, with both greedy answers: what a suite keeps of a prompt."""
    prompts = [case_prompt(row) for row in rows]
    length = max(MIN_COMPLETION_LENGTH, sizes.max_new_tokens)
    with pair.reading_once():
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
