"""The limit of a row or an assertion, its metric, and when it is refused.

Never computes a limit. Does not know how a row is measured (`pytest_divergence.plugin.replay`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_divergence.core.cases import Case, Measurement, is_same_quantity
from pytest_divergence.core.provenance import Provenance
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.core.verdicts import check_bound
from pytest_divergence.plugin.options import BY_FIELD, assignment, name_of
from pytest_divergence.plugin.session import DivergenceSession


def noise_floor_of(provenance: Provenance | None, metric: str) -> float | None:
    """Return the noise floor that a suite was made with, for a metric and in its unit."""
    return provenance.noise_floor.of(metric) if provenance and provenance.noise_floor else None


def metric_for(session: DivergenceSession, case: Case, asked: str | None = None) -> MetricName:
    """Return the metric that the test or the session asks for, else that of the case."""
    if asked is None and "metric" not in session.given and case.kl is not None:
        asked = case.kl.metric
    return asked or session.resolved.settings.metric


def refuse_noise(
    session: DivergenceSession,
    provenance: Provenance | None,
    bound: float,
    metric: str,
    name: str = "max_kl",
) -> None:
    """Raise SettingsError for a bound within the noise floor that a suite was made with.

    A session in another dtype has another, unknown noise floor, so there it checks nothing.
    """
    if provenance is not None and session.choice("dtype") in ("auto", provenance.dtype):
        check_bound(bound, provenance.noise_floor, metric, dtype=provenance.dtype, name=name)


def suite_bounds(session: DivergenceSession, path: Path, stored: StoredSuite) -> dict[str, float]:
    """Return each case's bound by id: the row's, else the option's, else the suite's.

    Raises UsageError for a case without a bound, and for a bound on another quantity than the
    session measures; SettingsError for a bound within the noise.
    """
    provenance = stored.provenance
    bounds = {}
    for case in stored.suite.cases:
        bound = stored.bound_of(case, session.number_bound)
        where = f"{session.shown(path)}:{stored.suite.lines[case.id]}: case {case.id}"
        if bound is None:
            raise pytest.UsageError(
                f"{where} has no bound; add max_kl to the row, or give --divergence-max-kl"
            )
        metric = metric_for(session, case)
        if case.max_kl is not None or session.number_bound is None:
            made = case.kl or (stored.measured if case.max_kl is None else None)
            _check_quantity(session, where, made, metric)
        name = "max_kl" if case.max_kl is not None else setting("max_kl")
        refuse_noise(session, provenance, bound, metric, f"{where}: {name}")
        bounds[case.id] = bound
    return bounds


def refuse_shift(session: DivergenceSession, path: Path) -> None:
    """Raise UsageError if a suite that is compared by texts is given a limit of the shift."""
    if session.resolved.settings.max_shift is not None:
        limit = assignment(session.given["max_shift"], BY_FIELD["max_shift"])
        raise pytest.UsageError(
            f"{session.shown(path)} is compared by texts alone, so {limit} cannot be judged; leave "
            "it out"
        )


def _check_quantity(
    session: DivergenceSession, where: str, made: Measurement | None, metric: str
) -> None:
    """Refuse a limit derived from `made` if `metric` measures another quantity."""
    if made is None or is_same_quantity(made.metric, metric):
        return
    asked = session.given.get("metric")
    name = f"{name_of('metric', asked)}={metric}" if asked else f"the default metric, {metric},"
    raise pytest.UsageError(
        f"{where}: its limit is for {made.metric} ({made.unit}), but {name} asks for another "
        "quantity; leave that out, or measure the suite in it with --divergence-update"
    )
