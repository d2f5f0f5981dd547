"""A suite's rows, measured on the session's models: many in one pass, when the first is asked for.

Knows which rows go together and what a measured row can still be asked. Does not know what an item
asserts, nor how a row is scored (`pytest_divergence.scoring.replay`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

from pytest_divergence.core.stored import StoredSuite
from pytest_divergence.frames import forget_frames
from pytest_divergence.measuring import answers_of, metric_for, sizes_for
from pytest_divergence.replay_faults import explained, lost_rows
from pytest_divergence.session import DivergenceSession

if TYPE_CHECKING:
    from pytest_divergence.core.cases import Case, Completions, Measurement
    from pytest_divergence.core.report import TokenComparison
    from pytest_divergence.models.pair import ModelPair
    from pytest_divergence.scoring.replay import ReplayedCase

ROWS_TOGETHER = 32
"""A session that stops at the first failure has measured at most so many rows for nothing."""


class Measured(Protocol):
    """What an item judges; the rest costs forward passes, and only failures ask for it."""

    pair: ModelPair | None
    """The models that it was measured on; None: it was not, in this session."""

    @property
    def measurement(self) -> Measurement:
        """The divergences."""

    def tokens(self) -> Sequence[TokenComparison]:
        """Both models at each token of the candidate's answer."""

    def completions(self) -> Completions | None:
        """What both models answer."""


class Carried:
    """A value that a search measured on these very models."""

    def __init__(self, case: Case, tokens: Sequence[TokenComparison]) -> None:
        """`tokens` are the report's, where there is one."""
        assert case.kl is not None  # what has no value is not carried
        self.measurement = case.kl
        self.pair: ModelPair | None = None
        self._case, self._tokens = case, tokens

    def tokens(self) -> Sequence[TokenComparison]:
        """The search's own."""
        return self._tokens

    def completions(self) -> Completions | None:
        """The suite's own."""
        return self._case.completions


class Replayed:
    """A value measured in this session."""

    def __init__(
        self, session: DivergenceSession, pair: ModelPair, case: Case, found: ReplayedCase
    ) -> None:
        """`found` is the row as it was measured on `pair`."""
        self.measurement = found.measurement
        self.pair: ModelPair | None = pair
        self._session, self._pair, self._case = session, pair, case

    def tokens(self) -> Sequence[TokenComparison]:
        """Compared anew."""
        from pytest_divergence.scoring.comparison import compare_tokens
        from pytest_divergence.scoring.replay import case_prompt

        return compare_tokens(self._pair, case_prompt(self._case), self._answers[1])

    def completions(self) -> Completions:
        """Written anew: a suite's own may be another candidate's."""
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
        """The row's measurement; some of `wanted`, which holds rows to come, are measured with it.

        Raises what measuring this row raised.
        """
        if row.id not in self._found:
            self._measure(pair, row, wanted)
        found = self._found[row.id]
        if isinstance(found, Exception):
            raise found
        return Replayed(self._session, pair, row, found)

    def _measure(self, pair: ModelPair, row: Case, wanted: Sequence[Case]) -> None:
        from pytest_divergence.scoring.replay import replay_cases

        others = [one for one in wanted if one.id not in self._found and one.id != row.id]
        rows = [row, *others[: ROWS_TOGETHER - 1]]
        lost = lost_rows(self._session, self.stored, rows)
        found_now = replay_cases(
            pair,
            [one for one in rows if one.id not in lost],
            self.stored.tokens,
            metric_of=partial(metric_for, self._session),
            **sizes_for(self._session, pair),
        )
        for id_, found in found_now.items():
            if isinstance(found, Exception):
                found_now[id_] = explained(self._session, self.stored, pair, found)
        self._found |= {**found_now, **lost}
        for found in self._found.values():
            if isinstance(found, Exception):  # kept until the session's end, and the pair is not
                forget_frames(found)
