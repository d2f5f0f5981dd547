"""Items about all rows of a suite: how much they grew, and how far ordinary prompts moved.

Knows which rows count and what a verdict does to a session. Does not know the statistics
(`pytest_divergence.scoring.aggregate_tests`), nor how a row is measured
(`pytest_divergence.plugin.replay`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from pytest_divergence.core.aggregates import Aggregate, Shift
from pytest_divergence.core.cases import Case, Measurement
from pytest_divergence.core.errors import DivergenceError, MeasurementError
from pytest_divergence.core.report import Report
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.plugin.items import SuiteItem, SuiteModule
from pytest_divergence.plugin.notes import note
from pytest_divergence.plugin.replay_report import keep_check, keep_tokens
from pytest_divergence.plugin.session import of
from pytest_divergence.plugin.terminal import rerun
from pytest_divergence.plugin.usage_errors import failures
from pytest_divergence.plugin.warning import warn_of_suite
from pytest_divergence.reports.aggregates import (
    aggregate_sentence,
    aggregate_text,
    shift_sentence,
    shift_text,
)

AGGREGATE_ITEM, SHIFT_ITEM = "aggregate", "shift"


def has_aggregate(stored: StoredSuite) -> bool:
    """Whether a suite has stored values to measure again on the same continuations."""
    return any(row.id in stored.tokens for row in _compared(stored))


class RowsItem(SuiteItem):
    """An item that measures many rows of a suite in one pass."""

    @classmethod
    def of_rows(cls, parent: SuiteModule, name: str) -> RowsItem:
        """Return the item for a suite's rows."""
        item: RowsItem = cls.named(parent, name, 1)
        item.add_marker(pytest.mark.divergence)
        return item

    def measured(
        self, request: pytest.FixtureRequest, rows: Sequence[Case]
    ) -> dict[str, Measurement]:
        """Return each row's measurement by id.

        Raises `MeasurementError` if any row cannot be measured: without it there is no verdict.
        """
        pair, found, failed = self.pair(request), dict[str, Measurement](), dict[str, Exception]()
        for row in rows:
            try:
                found[row.id] = self.suite.replay.of(pair, row, wanted=rows).measurement
            except Exception as error:  # a model may raise anything
                failed[row.id] = error
        if failed:
            raise _unmeasured(failed, len(rows))
        return found


class AggregateItem(RowsItem):
    """Fails if a suite's rows have grown together, even if each is within its bound."""

    found: Aggregate

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Measure every row that has a stored value, and compare the two."""
        note(self, kind=AGGREGATE_ITEM, verdict="error")  # until it is measured
        keep_check(self)
        with failures(of(self.config)):
            rows = _compared(self.suite.stored)
            self.found = self.suite.replay.compare(rows, self.measured(request, rows))
            keep_tokens(self, self.suite.replay.token_statistics())

    def judge(self) -> None:
        """Fail, warn or pass, and note the numbers in any case."""
        found, session = self.found, of(self.config)
        numbers = aggregate_sentence(found)
        sentence = f"{found.verdict}: {numbers}"
        note(self, verdict=found.verdict, aggregate=sentence)
        if found.growth is not None:
            note(self, ratio=found.growth.ratio, ratio_p_value=found.growth.p_value)
        if found.breadth is not None:
            note(self, share_over=found.breadth.share, share_p_value=found.breadth.p_value)
        is_undecided = found.verdict == "inconclusive"
        is_failure = is_undecided and session.resolved.settings.inconclusive == "fail"
        if is_failure:
            keep_check(self, "failed", sentence)
        else:
            keep_check(self, found.verdict, numbers)
        if found.verdict == "failed" or is_failure:
            text = aggregate_text(
                found,
                rerun=rerun(session, self.nodeid),
                update=None
                if self.is_partial
                else rerun(session, self.nodeid.partition("::")[0], "--divergence-update"),
            )
            pytest.fail(text, pytrace=False)
        self.add_report_section("call", "divergence", sentence)
        if is_undecided:
            warn_of_suite(self.path, f"aggregate {sentence}")


class ShiftItem(RowsItem):
    """Fails if ordinary prompts moved, on average, further than `--divergence-max-shift`."""

    report: Report | None = None
    """The report of this session's search, which has measured the controls."""
    shift: Shift

    @classmethod
    def of_search(cls, parent: SuiteModule, report: Report) -> ShiftItem:
        """Return the item for this session's search."""
        item: ShiftItem = cls.named(parent, SHIFT_ITEM, 1)
        item.report = report
        item.add_marker(pytest.mark.divergence)
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Take the controls of this session's search, or measure the suite's on these models."""
        note(self, kind=SHIFT_ITEM, verdict="error")
        keep_check(self)
        with failures(of(self.config)):
            limit = of(self.config).resolved.settings.max_shift
            assert limit is not None  # else no item is made
            if self.report is not None:
                self.shift = _searched_shift(self.report, limit)
            else:
                self.shift = self._replayed(request, limit)
                keep_tokens(self, self.suite.replay.token_statistics())

    def judge(self) -> None:
        """Fail if the mean is over its limit."""
        shift, session = self.shift, of(self.config)
        note(self, verdict=shift.verdict, shift=shift.mean, max_shift=shift.limit)
        keep_check(self, shift.verdict, shift_sentence(shift))
        if shift.verdict == "failed":
            pytest.fail(shift_text(shift, rerun=rerun(session, self.nodeid)), pytrace=False)
        self.add_report_section("call", "divergence", shift_sentence(shift))

    def _replayed(self, request: pytest.FixtureRequest, limit: float) -> Shift:
        controls = self.suite.stored.suite.controls
        if not controls:
            raise MeasurementError(
                "the suite has no control rows, so --divergence-max-shift cannot be judged; "
                "leave it out, or search again"
            )
        measured = list(self.measured(request, controls).values())
        return self.suite.replay.shift(measured, limit)


def _searched_shift(report: Report, limit: float) -> Shift:
    typical = report.calibration.typical_shift
    if typical is None:
        raise MeasurementError(
            "the search measured no typical shift, so --divergence-max-shift cannot be judged"
        )
    metric, unit = str(report.settings.get("metric")), report.calibration.unit
    return Shift(typical.mean, limit, typical.num_controls, metric, unit)


def _compared(stored: StoredSuite) -> list[Case]:
    return [row for row in stored.suite.rows if row.kl is not None]


def _unmeasured(failed: Mapping[str, Exception], num_rows: int) -> Exception:
    """Return one error for all rows that failed: the first reason, and their number."""
    id_, error = next(iter(failed.items()))
    is_ours = isinstance(error, DivergenceError)
    reason = str(error) if is_ours else f"{type(error).__name__}: {safe_line(str(error))}"
    others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    return MeasurementError(
        f"{len(failed)} of {num_rows} rows could not be measured, so there is no verdict: row "
        f"{id_}{others}: {reason.removeprefix(f'case {id_}: ')}"
    )
