"""A suite's rows, measured on the session's models and compared with their stored values.

Asking for one row measures many in one pass. Knows which rows go together, why a row cannot be
measured, and how its answers and tokens are computed later. Does not know what an item asserts, nor
how a row is scored (`pytest_divergence.scoring.suite_rows`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypedDict

from pytest_divergence.core.aggregates import (
    CHOSEN_KL,
    Aggregate,
    Breadth,
    GrownRow,
    SearchedGrowth,
    Shift,
    is_representative,
    is_searched,
    log_ratio,
)
from pytest_divergence.core.behaviours import Retelling, TellingContinuation
from pytest_divergence.core.cases import Case, Completions, Measurement, is_same_quantity
from pytest_divergence.core.changes import describe_changes
from pytest_divergence.core.errors import PromptIdsError
from pytest_divergence.core.evidence import (
    growing_values,
    is_same_evidence,
    like_for_like,
)
from pytest_divergence.core.file_names import TOKENS, sidecar_path
from pytest_divergence.core.report import TokenComparison
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.core.token_statistics import TokenStatistics
from pytest_divergence.core.verdicts import ARITHMETIC_FLOOR, with_noise
from pytest_divergence.discovery.plan import versions
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.plugin.bounds import metric_for, noise_floor_of
from pytest_divergence.plugin.frames import forget_frames
from pytest_divergence.plugin.session import DivergenceSession
from pytest_divergence.plugin.text_replay import TextReplay
from pytest_divergence.scoring.aggregate_tests import breadth, non_inferiority, shift
from pytest_divergence.scoring.continuations import greedy_answer, greedy_continuations
from pytest_divergence.scoring.control_tokens import token_statistics
from pytest_divergence.scoring.suite_rows import (
    ReplayedCase,
    case_prompt,
    lost_rows,
    replay_behaviour,
    replay_cases,
)
from pytest_divergence.scoring.token_comparison import compare_tokens

NUM_GROWN = 5
"""Number of rows that grew most, kept for people."""
ROWS_TOGETHER = 32
"""Rows per pass: all that a session which stops at the first failure may measure in vain."""


class SampleSizes(TypedDict):
    """Number, length and seed of the continuations that a session samples."""

    num_continuations: int
    max_new_tokens: int
    seed: int


class Replayed:
    """A value measured in this session."""

    def __init__(
        self, session: DivergenceSession, pair: ModelPair, case: Case, found: ReplayedCase
    ) -> None:
        """Take `found`, the row as it was measured on `pair`."""
        self.measurement = like_for_like(found.measurement, case.kl)
        self.pair: ModelPair | None = pair
        self._session, self._pair, self._case = session, pair, case

    def tokens(self) -> Sequence[TokenComparison]:
        """Compare both models at each token of the candidate's new answer.

        A recorded reference knows nothing of new tokens, so then there is nothing to compare.
        """
        if not self._pair.writes:
            return ()
        return compare_tokens(self._pair, case_prompt(self._case), self._answers[1])

    def completions(self) -> Completions:
        """Return new answers: those in a suite may be another candidate's."""
        return self._answers[0]

    @cached_property
    def _answers(self) -> tuple[Completions, tuple[int, ...]]:
        length = sizes_for(self._session, self._pair)["max_new_tokens"]
        return answers_of(self._pair, self._case, length)


class SuiteReplay:
    """The rows of one suite in one session."""

    def __init__(self, session: DivergenceSession, stored: StoredSuite) -> None:
        """Measure nothing yet."""
        self.stored = stored
        self._session = session
        self._found: dict[str, ReplayedCase | Exception] = {}

    def of(self, pair: ModelPair, row: Case, *, wanted: Sequence[Case] = ()) -> Replayed:
        """Return the row's measurement; some of `wanted`, the rows to come, are measured with it.

        Raises what measuring this row raised.
        """
        if row.id not in self._found:
            self._measure(pair, row, wanted)
        found = self._found[row.id]
        if isinstance(found, Exception):
            raise found
        return Replayed(self._session, pair, row, found)

    @cached_property
    def texts(self) -> TextReplay:
        """Comparison of the rows' answers as texts, for a model that tells nothing else."""
        return TextReplay(self._session, self.stored)

    def behaviour(self, pair: ModelPair, telling: Sequence[TellingContinuation]) -> Retelling:
        """Measure a behaviour's telling answers again."""
        return replay_behaviour(pair, telling)

    def compare(self, rows: Sequence[Case], measured: Mapping[str, Measurement]) -> Aggregate:
        """Compare the rows' stored values, taken together, with their new measurements.

        Growth and breadth are those of rows that stand for ordinary prompts.
        """
        stored = self.stored
        floor = noise_floor_of(stored.provenance, "forward") or ARITHMETIC_FLOOR
        grown, searched = (
            [_grown(row, measured[row.id], floor) for row in rows if belongs(row)]
            for belongs in (is_representative, is_searched)
        )
        growth = None
        if grown:
            growth = non_inferiority(
                [row.measured for row in grown], [row.stored for row in grown], floor
            )
            if any(row.kl and not is_same_evidence(row.kl, measured[row.id]) for row in rows):
                growth = replace(growth, what=CHOSEN_KL)
        beside = None
        if searched:
            mean = statistics.geometric_mean([row.ratio for row in searched])
            beside = SearchedGrowth(mean, len(searched))
        ordinary = (row.id for row in stored.suite.ordinary)
        found = [measured[id_] for id_ in ordinary if id_ in measured]
        breadth, no_breadth = controls_breadth(self._session, stored, found)
        most = sorted(grown, key=lambda row: (-row.ratio, row.id))[:NUM_GROWN]
        return Aggregate(growth, breadth, no_breadth, beside, tuple(most))

    def shift(self, measured: Sequence[Measurement], limit: float) -> Shift:
        """Return how far ordinary prompts moved, with the limit of their mean."""
        found = shift([found.value for found in measured], limit)
        return replace(found, metric=measured[0].metric, unit=measured[0].unit)

    @property
    def _tokens_path(self) -> Path:
        return sidecar_path(self.stored.suite.path, TOKENS)

    def token_statistics(self) -> TokenStatistics | None:
        """Return the divergence at single tokens of the control rows measured so far, if all are.

        Rows of one metric and evidence are measured alike, so nothing is measured anew.
        """
        found = [self._found.get(row.id) for row in self.stored.suite.controls]
        return token_statistics(
            [row.tokens if isinstance(row, ReplayedCase) else None for row in found]
        )

    def _measure(self, pair: ModelPair, row: Case, wanted: Sequence[Case]) -> None:
        others = [case for case in wanted if case.id not in self._found and case.id != row.id]
        rows = [row, *others[: ROWS_TOGETHER - 1]]
        lost = lost_rows(self.stored, rows, tokens_name=self._session.shown(self._tokens_path))
        found_now = replay_cases(
            pair,
            [case for case in rows if case.id not in lost],
            self.stored.tokens,
            metric_of=partial(metric_for, self._session),
            **sizes_for(self._session, pair),
        )
        for id_, found in found_now.items():
            if isinstance(found, Exception):
                found_now[id_] = explained(self._session, self.stored, pair, found)
        self._found |= {**found_now, **lost}
        for found in self._found.values():
            if isinstance(found, Exception):  # kept to the session's end, unlike the pair
                forget_frames(found)


def explained(
    session: DivergenceSession, stored: StoredSuite, pair: ModelPair, fault: Exception
) -> Exception:
    """Return `fault`; if a prompt's ids changed, add what else changed since the suite was made."""
    if not isinstance(fault, PromptIdsError) or stored.provenance is None:
        return fault
    made, now = stored.provenance, session.pairs.identity_of(pair)
    library, current = "transformers", versions()
    changed = describe_changes(
        {
            "the chat template": (made.template_sha256, pair.chat.template_digest),
            "the template's arguments": (made.template_arguments, pair.chat.all_arguments),
            "the tokenizer's files": (made.tokenizer_sha256, now.tokenizer_sha256),
            "the system prompt": (
                made.settings.get("system_prompt"),
                session.resolved.settings.system_prompt,
            ),
            library: (made.versions.get(library, current[library]), current[library]),
        }
    )
    if not changed:
        return fault
    return PromptIdsError(f"{fault} Changed since the suite was made: {'; '.join(changed)}.")


def answers_of(
    pair: ModelPair, case: Case, max_new_tokens: int
) -> tuple[Completions, tuple[int, ...]]:
    """Return both models' greedy answers, and the candidate's as token ids.

    A suite's stored answers may be other models'. A recorded reference writes none, and its stored
    one stands.
    """
    if not pair.writes:
        prompt, stored = case_prompt(case), case.completions
        answer = greedy_answer(pair, pair.candidate, prompt, max_new_tokens=max_new_tokens)
        said = stored.reference if stored is not None else ""
        return Completions(reference=said, candidate=pair.chat.text(answer)), answer
    found = greedy_continuations(pair, [case_prompt(case)], max_new_tokens=max_new_tokens)[0]
    answer = found.candidate[0]
    both = pair.chat.text(found.reference[0]), pair.chat.text(answer)
    return Completions(reference=both[0], candidate=both[1]), answer


def sizes_for(session: DivergenceSession, pair: ModelPair) -> SampleSizes:
    """Return number, length and seed of the continuations that this session samples."""
    settings = session.resolved.settings
    profile = settings.resolved_profile(pair.device.type)
    return {
        "num_continuations": profile.num_continuations,
        "max_new_tokens": profile.continuation_length,
        "seed": settings.seed,
    }


def _grown(row: Case, measurement: Measurement, floor: float) -> GrownRow:
    assert row.kl is not None  # rows without a value are not compared
    old, new = growing_values(row.kl, measurement)
    return GrownRow(row.id, old, new, math.exp(log_ratio(new, old, floor)))


def controls_breadth(
    session: DivergenceSession, stored: StoredSuite, measured: Sequence[Measurement]
) -> tuple[Breadth | None, str]:
    """Compare the suite's control rows with its bound; else return why that is not possible."""
    bound = _suite_bound(session, stored)
    if not measured:
        return None, "breadth is not checked: the suite has no control rows"
    if bound is None:
        return None, "breadth is not checked: no bound; give --divergence-max-kl"
    if (made := _limit_of_another(stored, measured[0])) is not None:
        return None, f"breadth is not checked: the suite's bound is for {made}"
    # The bound may be the largest control's own value.
    limit = with_noise(bound, noise_floor_of(stored.provenance, measured[0].metric))
    found = breadth([measurement.value for measurement in measured], limit)
    return replace(found, bound=bound, unit=measured[0].unit), ""


def _limit_of_another(stored: StoredSuite, measured: Measurement) -> str | None:
    """Return the metric of the suite's bound if it is another quantity than was measured."""
    made, own = stored.measured, stored.provenance
    if made is None or own is None or own.bound is None:
        return None
    return None if is_same_quantity(made.metric, measured.metric) else made.metric


def _suite_bound(session: DivergenceSession, stored: StoredSuite) -> float | None:
    """Return the bound for the suite's controls: its own, else the option's."""
    provenance = stored.provenance
    if provenance is not None and provenance.bound is not None:
        return provenance.bound.value
    return session.number_bound
