"""Items about all rows of a suite together: how much they grew, and how far ordinary prompts moved.

Knows which rows count and what a verdict does to a session. Does not know the statistics
(`pytest_divergence.scoring.aggregate_tests`), nor how a row is measured
(`pytest_divergence.plugin.replay`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from pytest_divergence.core.aggregates import (
    Aggregate,
    Breadth,
    GrownRow,
    Shift,
    log_ratio,
    unit_of,
)
from pytest_divergence.core.cases import Case, Measurement, is_same_quantity
from pytest_divergence.core.errors import DivergenceError, MeasurementError
from pytest_divergence.core.report import Report
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.plugin.bounds import noise_floor_of
from pytest_divergence.plugin.items import SuiteItem, SuiteModule
from pytest_divergence.plugin.notes import note
from pytest_divergence.plugin.replay import SuiteReplay
from pytest_divergence.plugin.session import DivergenceSession, of
from pytest_divergence.plugin.terminal import rerun_command
from pytest_divergence.plugin.usage_errors import failures, warn_of_suite
from pytest_divergence.reports.aggregates import (
    aggregate_sentence,
    aggregate_text,
    shift_sentence,
    shift_text,
)
from pytest_divergence.scoring.aggregate_tests import breadth, non_inferiority, shift

AGGREGATE_ITEM, SHIFT_ITEM = "aggregate", "shift"
DEFAULT_FLOOR = 1e-6
"""Nats per token, where the suite names no noise floor: what float32 arithmetic leaves."""
NUM_SHOWN = 5


def has_aggregate(stored: StoredSuite) -> bool:
    """Whether a suite has stored values that can be measured again on the same continuations."""
    return any(row.id in stored.tokens for row in _compared(stored))


class RowsItem(SuiteItem):
    """An item that measures many rows of a suite in one pass."""

    replay: SuiteReplay
    is_carried: Callable[[Case], bool]

    @classmethod
    def of_rows(
        cls, parent: SuiteModule, name: str, replay: SuiteReplay, is_carried: Callable[[Case], bool]
    ) -> RowsItem:
        """The item of one suite's rows."""
        item = cls.listed(parent, name)
        item.replay, item.is_carried = replay, is_carried
        return item

    @classmethod
    def listed(cls, parent: SuiteModule, name: str) -> RowsItem:
        """The item where pytest only lists: it keeps nothing of the suite."""
        item: RowsItem = cls.named(parent, name, 1)
        item.add_marker(pytest.mark.divergence)
        return item

    def measured(
        self, request: pytest.FixtureRequest, rows: Sequence[Case]
    ) -> dict[str, Measurement]:
        """Each row's measurement by id: carried, where these very models were measured, else new.

        Raises `MeasurementError` where a row cannot be measured: without it the others say nothing.
        """
        found = {row.id: row.kl for row in rows if row.kl is not None and self.is_carried(row)}
        others = [row for row in rows if row.id not in found]
        if not others:
            return found
        pair, failed = self.pair(request), dict[str, Exception]()
        for row in others:
            try:
                found[row.id] = self.replay.of(pair, row, wanted=others).measurement
            except Exception as error:  # a model may raise anything
                failed[row.id] = error
        if failed:
            raise _unmeasured(failed, len(rows))
        return found


class AggregateItem(RowsItem):
    """Fails where a suite's rows have grown together, though each may be within its bound."""

    found: Aggregate

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Measure every row that has a stored value, and compare."""
        note(self, kind=AGGREGATE_ITEM, verdict="error")  # until it is measured
        with failures(of(self.config)):
            rows = _compared(self.replay.stored)
            self.found = self._compare(rows, self.measured(request, rows))

    def judge(self) -> None:
        """Fail, warn or pass, and leave the numbers in each case."""
        found, session = self.found, of(self.config)
        sentence = f"{found.verdict}: {aggregate_sentence(found)}"
        note(
            self,
            verdict=found.verdict,
            ratio=found.growth.ratio,
            ratio_p_value=found.growth.p_value,
            aggregate=sentence,
        )
        if found.breadth is not None:
            note(self, share_over=found.breadth.share, share_p_value=found.breadth.p_value)
        is_failure = session.resolved.settings.inconclusive == "fail"
        if found.verdict == "failed" or (found.verdict == "inconclusive" and is_failure):
            text = aggregate_text(
                found,
                rerun=rerun_command(session, self.nodeid),
                update=rerun_command(
                    session, self.nodeid.partition("::")[0], "--divergence-update"
                ),
            )
            pytest.fail(text, pytrace=False)
        self.add_report_section("call", "divergence", sentence)
        if found.verdict == "inconclusive":
            warn_of_suite(self.path, f"aggregate {sentence}")

    def _compare(self, rows: Sequence[Case], measured: dict[str, Measurement]) -> Aggregate:
        stored = self.replay.stored
        floor = noise_floor_of(stored.provenance, "forward") or DEFAULT_FLOOR
        grown = [_grown(row, measured[row.id], floor) for row in rows]
        growth = non_inferiority(
            [row.measured for row in grown],
            [row.stored for row in grown],
            [unit_of(row) for row in rows],
            floor,
        )
        controls = (row.id for row in stored.suite.controls)
        found = [measured[id_] for id_ in controls if id_ in measured]
        breadth, no_breadth = controls_breadth(of(self.config), stored, found)
        most = sorted(grown, key=lambda row: (-row.ratio, row.id))[:NUM_SHOWN]
        return Aggregate(growth, breadth, no_breadth, tuple(most))


class ShiftItem(RowsItem):
    """Fails where ordinary prompts, taken together, moved further than `--divergence-max-shift`."""

    report: Report | None = None
    """Of this session's own search, whose controls are measured already."""
    shift: Shift

    @classmethod
    def of_search(cls, parent: SuiteModule, report: Report) -> ShiftItem:
        """The item of this session's own search."""
        item: ShiftItem = cls.named(parent, SHIFT_ITEM, 1)
        item.report = report
        item.add_marker(pytest.mark.divergence)
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """The controls of this session's search, or the suite's on these models."""
        note(self, kind=SHIFT_ITEM, verdict="error")
        with failures(of(self.config)):
            limit = of(self.config).resolved.settings.max_shift
            assert limit is not None  # else no item is made
            if self.report is not None:
                self.shift = _searched_shift(self.report, limit)
            else:
                self.shift = self._replayed(request, limit)

    def judge(self) -> None:
        """Fail where the mean is over its limit."""
        shift, session = self.shift, of(self.config)
        note(self, verdict=shift.verdict, shift=shift.mean, max_shift=shift.limit)
        if shift.verdict == "failed":
            pytest.fail(shift_text(shift, rerun=rerun_command(session, self.nodeid)), pytrace=False)
        self.add_report_section("call", "divergence", shift_sentence(shift))

    def _replayed(self, request: pytest.FixtureRequest, limit: float) -> Shift:
        controls = self.replay.stored.suite.controls
        if not controls:
            raise MeasurementError(
                "the suite has no control rows, so --divergence-max-shift cannot be judged; "
                "leave it out, or search again"
            )
        measured = list(self.measured(request, controls).values())
        found = shift([one.value for one in measured], limit)
        return replace(found, metric=measured[0].metric, unit=measured[0].unit)


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


def _grown(row: Case, measurement: Measurement, floor: float) -> GrownRow:
    assert row.kl is not None  # rows without a value are not compared
    old, new = row.kl.forward, measurement.forward
    return GrownRow(row.id, old, new, math.exp(log_ratio(new, old, floor)))


def controls_breadth(
    session: DivergenceSession, stored: StoredSuite, measured: Sequence[Measurement]
) -> tuple[Breadth | None, str]:
    """How what the suite's control rows read stands to its bound; else why no one asks."""
    bound = _suite_bound(session, stored)
    if not measured:
        return None, "breadth is not checked: the suite has no control rows"
    if bound is None:
        return None, "breadth is not checked: no bound; give --divergence-max-kl"
    if (made := _limit_of_another(stored, measured[0])) is not None:
        return None, f"breadth is not checked: the suite's bound is of {made}"
    found = breadth([one.value for one in measured], bound)
    return replace(found, unit=measured[0].unit), ""


def _limit_of_another(stored: StoredSuite, measured: Measurement) -> str | None:
    """The metric of the suite's own bound, where that says nothing about what was measured."""
    made, own = stored.measured, stored.provenance
    if made is None or own is None or own.bound is None:
        return None
    return None if is_same_quantity(made.metric, measured.metric) else made.metric


def _suite_bound(session: DivergenceSession, stored: StoredSuite) -> float | None:
    """The bound of the suite's controls: the one it was made with, else the option's."""
    provenance = stored.provenance
    if provenance is not None and provenance.bound is not None:
        return provenance.bound.value
    return session.number_bound


def _unmeasured(failed: Mapping[str, Exception], num_rows: int) -> Exception:
    """One error for all rows that failed: the first one's reason, and how many there are."""
    id_, error = next(iter(failed.items()))
    is_ours = isinstance(error, DivergenceError)
    reason = str(error) if is_ours else f"{type(error).__name__}: {safe_line(str(error))}"
    others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    return MeasurementError(
        f"{len(failed)} of {num_rows} rows could not be measured, so there is no verdict: row "
        f"{id_}{others}: {reason.removeprefix(f'case {id_}: ')}"
    )
