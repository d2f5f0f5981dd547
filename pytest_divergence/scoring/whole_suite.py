"""A whole suite, measured on one pair and judged: its cases, controls and behaviours.

Knows which rows and behaviours count. Does not know how a row is measured
(`pytest_divergence.scoring.suite_rows`), nor who asks.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pytest_divergence.core.behaviours import gates
from pytest_divergence.core.cases import Case, Measurement, Number, Record
from pytest_divergence.core.errors import DivergenceError, MeasurementError, SettingsError
from pytest_divergence.core.evidence import like_for_like
from pytest_divergence.core.file_names import TOKENS, sidecar_path
from pytest_divergence.core.provenance import TypicalShift
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.settings import MetricName, Settings
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.core.verdicts import judge
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.baseline import typical_shift
from pytest_divergence.scoring.suite_rows import (
    ReplayedCase,
    check_stored,
    lost_rows,
    replay_behaviour,
    replay_cases,
)

DEFAULTS = Settings()
NUM_NAMED = 3
"""Cases that a sentence names."""


class SuiteReading(Record):
    """Measurement of a whole suite on one pair."""

    values: dict[str, Number]
    """Divergence of each case by id, in its metric's unit."""
    bounds: dict[str, Number]
    """Bound of each case by id."""
    shift: TypicalShift | None
    """Divergence on the suite's control rows; None if it has none."""
    same_top: Number | None
    """Share of positions, of cases and controls, at which both models prefer the same token."""
    behaviours: list[str]
    """Ids of the behaviours that nobody has accepted and that the candidate shows."""
    errors: dict[str, str]
    """Reasons, by id, why a row or a behaviour could not be measured."""

    @property
    def over(self) -> dict[str, float]:
        """Cases over their bound: values by id, the largest first."""
        over = {
            id_: value
            for id_, value in self.values.items()
            if judge(value, self.bounds[id_]) == "failed"
        }
        return dict(sorted(over.items(), key=lambda entry: -entry[1]))

    def metrics(self) -> dict[str, float]:
        """Return the numbers for a tracker by name; what was not measured is left out."""
        found: dict[str, float] = {
            "cases_over": len(self.over),
            "behaviours": len(self.behaviours),
            "errors": len(self.errors),
        }
        if self.values:
            found |= {
                "mean_kl": statistics.fmean(self.values.values()),
                "max": max(self.values.values()),
            }
        if self.same_top is not None:
            found["same_top"] = self.same_top
        if self.shift is not None:
            found |= {
                "typical_shift": self.shift.mean,
                "typical_shift_p99": self.shift.p99,
                "typical_shift_max": self.shift.max,
            }
        return found

    def failure(self) -> str | None:
        """Return in words why the candidate fails the suite; None if it passes."""
        parts = []
        if over := self.over:
            named = [
                f"{id_} ({value:.3g} > {self.bounds[id_]:.3g})"
                for id_, value in list(over.items())[:NUM_NAMED]
            ]
            more = ", …" if len(over) > NUM_NAMED else ""
            cases = number_of(len(self.values), "case")
            parts.append(f"{len(over)} of {cases} over the bound: {', '.join(named)}{more}")
        if self.behaviours:
            shown = number_of(len(self.behaviours), "behaviour")
            parts.append(f"{shown} that nobody has accepted: {', '.join(self.behaviours)}")
        if self.errors:
            id_, reason = next(iter(self.errors.items()))
            count = f"{len(self.errors)} could not be measured"
            parts.append(f"{count}: {id_}: {reason.removeprefix(f'case {id_}: ')}")
        return "; ".join(parts) or None


def suite_bounds(stored: StoredSuite, max_kl: float | None) -> dict[str, float]:
    """Return each case's bound by id: its row's, else `max_kl`, else the suite's.

    Raises `SettingsError` for a case without any.
    """
    bounds = {case.id: stored.bound_of(case, max_kl) for case in stored.suite.cases}
    for id_, bound in bounds.items():
        if bound is None:
            raise SettingsError(
                f"case {id_} has no bound; add max_kl to its row, or give max_kl for all such cases"
            )
    return {id_: bound for id_, bound in bounds.items() if bound is not None}


def check_suite(pair: ModelPair, stored: StoredSuite) -> None:
    """Raise `MeasurementError` for the first row that cannot be measured on this pair.

    Measures nothing.
    """
    for error in _lost(stored).values():
        raise error
    for row in _rows(stored):
        if row.id in stored.tokens:
            check_stored(pair, row, stored.tokens[row.id])
        elif not pair.writes:
            raise MeasurementError(
                f"case {row.id} has no stored continuations, and a recorded reference writes none; "
                "give the reference's weights"
            )


def measure_suite(
    pair: ModelPair, stored: StoredSuite, *, max_kl: float | None = None
) -> SuiteReading:
    """Measure a suite as a replay does; `max_kl` is the bound of cases that have none.

    What cannot be measured is in `errors`, and stops nothing else.
    """
    profile = DEFAULTS.resolved_profile(pair.device.type)
    lost = _lost(stored)
    rows = [row for row in _rows(stored) if row.id not in lost]
    found = replay_cases(
        pair,
        rows,
        stored.tokens,
        metric_of=_metric_of,
        num_continuations=profile.num_continuations,
        max_new_tokens=profile.continuation_length,
        seed=DEFAULTS.seed,
    )
    measured, errors = _measured(rows, found, lost)
    shown = _behaviours(pair, stored, errors)
    top = [found[id_] for id_ in measured]
    controls = [measured[row.id].value for row in stored.suite.controls if row.id in measured]
    return SuiteReading(
        values={
            case.id: measured[case.id].value for case in stored.suite.cases if case.id in measured
        },
        bounds=suite_bounds(stored, max_kl),
        shift=typical_shift(controls) if controls else None,
        same_top=_same_top([each for each in top if isinstance(each, ReplayedCase)]),
        behaviours=shown,
        errors=errors,
    )


def _rows(stored: StoredSuite) -> list[Case]:
    """Return the cases, then the controls."""
    return [*stored.suite.cases, *stored.suite.controls]


def _lost(stored: StoredSuite) -> dict[str, Exception]:
    tokens = sidecar_path(stored.suite.path, TOKENS)
    return lost_rows(stored, _rows(stored), tokens_name=tokens.name)


def _metric_of(case: Case) -> MetricName:
    return case.kl.metric if case.kl is not None else DEFAULTS.metric


def _measured(
    rows: Sequence[Case],
    found: Mapping[str, ReplayedCase | Exception],
    lost: Mapping[str, Exception],
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """Return what was measured, like for like with the stored values, and why the rest was not."""
    measured, errors = {}, {id_: _reason(error) for id_, error in lost.items()}
    for row in rows:
        reading = found[row.id]
        try:
            if isinstance(reading, Exception):
                raise reading
            measured[row.id] = like_for_like(reading.measurement, row.kl)
        except Exception as error:  # a model may raise anything
            errors[row.id] = _reason(error)
    return measured, errors


def _behaviours(pair: ModelPair, stored: StoredSuite, errors: dict[str, str]) -> list[str]:
    """Return the ids of the behaviours that the candidate shows; those not measured are errors."""
    shown = []
    made = stored.provenance
    for behaviour in made.behaviours if made is not None else ():
        if not gates(behaviour, DEFAULTS.fail_on):
            continue
        try:
            if not replay_behaviour(pair, behaviour.telling).is_gone:
                shown.append(behaviour.id)
        except Exception as error:
            errors[behaviour.id] = _reason(error)
    return shown


def _same_top(found: Sequence[ReplayedCase]) -> float | None:
    weights = [each.measurement.num_tokens for each in found]
    shares = [each.same_top_share for each in found]
    return statistics.fmean(shares, weights) if shares else None


def _reason(error: Exception) -> str:
    if isinstance(error, DivergenceError):
        return str(error)
    return f"{type(error).__name__}: {safe_line(str(error))}"
