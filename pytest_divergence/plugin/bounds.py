"""What suite items and users' own assertions share: how to measure, and what to leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import pytest

from pytest_divergence.core.cases import Case, Completions, Measurement, is_same_quantity
from pytest_divergence.core.provenance import Provenance
from pytest_divergence.core.redaction import redacted_case, redacted_token
from pytest_divergence.core.report import TokenComparison
from pytest_divergence.core.settings import MetricName
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.core.verdicts import refusal
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.plugin.options import name_of
from pytest_divergence.plugin.session import DivergenceSession
from pytest_divergence.scoring.continuations import greedy_continuations
from pytest_divergence.scoring.suite_rows import case_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class _Sizes(TypedDict):
    num_continuations: int
    max_new_tokens: int
    seed: int


def noise_floor_of(provenance: Provenance | None, metric: str) -> float | None:
    """The noise floor of a metric that a suite was made with, in the metric's unit."""
    return provenance.noise_floor.of(metric) if provenance and provenance.noise_floor else None


def metric_for(session: DivergenceSession, case: Case, asked: str | None = None) -> MetricName:
    """The metric asked for in the test or the session, else the one the case was measured in."""
    if asked is None and "metric" not in session.given and case.kl is not None:
        asked = case.kl.metric
    return asked or session.resolved.settings.metric


def shown_case(
    session: DivergenceSession, case: Case, tokens: Sequence[TokenComparison]
) -> tuple[Case, Sequence[TokenComparison]]:
    """What a failure may show of a case and of its tokens: all, or no text where none may leave."""
    if not session.is_redacted:
        return case, tokens
    return redacted_case(case), [redacted_token(one) for one in tokens]


def answers_of(
    pair: ModelPair, case: Case, max_new_tokens: int
) -> tuple[Completions, tuple[int, ...]]:
    """What both models answer greedily, and the candidate's answer as token ids.

    A suite's stored answers may be other models'.
    """
    found = greedy_continuations(pair, [case_prompt(case)], max_new_tokens=max_new_tokens)[0]
    answer = found.candidate[0]
    both = pair.chat.text(found.reference[0]), pair.chat.text(answer)
    return Completions(reference=both[0], candidate=both[1]), answer


def sizes_for(session: DivergenceSession, pair: ModelPair) -> _Sizes:
    """Number, length and seed of the continuations that this session samples."""
    settings = session.resolved.settings
    profile = settings.resolved_profile(pair.device.type)
    return {
        "num_continuations": profile.num_continuations,
        "max_new_tokens": profile.continuation_length,
        "seed": settings.seed,
    }


def refusal_of(
    session: DivergenceSession,
    provenance: Provenance | None,
    bound: float,
    metric: str,
    name: str = "max_kl",
) -> str | None:
    """Why a metric's bound is refused beside a suite's noise floor; None where it may stand.

    A session that asks for another dtype than the suite's measures with another, unknown floor.
    """
    floor = provenance.noise_floor if provenance is not None else None
    if (
        provenance is None
        or floor is None
        or session.choice("dtype") not in ("auto", provenance.dtype)
    ):
        return None
    return refusal(
        bound,
        floor.of(metric),
        name=name,
        dtype=provenance.dtype,
        unit=floor.unit_of(metric),
    )


def suite_bounds(session: DivergenceSession, path: Path, stored: StoredSuite) -> dict[str, float]:
    """Each case's bound: the row's, else the option's, else the suite's. Never computed here.

    Raises UsageError for a case without any, for a bound that lies inside the noise, and for one
    of another quantity than what the session measures.
    """
    provenance = stored.provenance
    of_suite = provenance.bound.value if provenance and provenance.bound else None
    bounds = {}
    for case in stored.suite.cases:
        given = (case.max_kl, session.number_bound, of_suite)
        bound = next((one for one in given if one is not None), None)
        where = f"{session.shown(path)}:{stored.suite.lines[case.id]}: case {case.id}"
        if bound is None:
            raise pytest.UsageError(
                f"{where} has no bound; add max_kl to the row, or give --divergence-max-kl"
            )
        metric = metric_for(session, case)
        if case.max_kl is not None or session.number_bound is None:
            made = case.kl or (stored.measured if case.max_kl is None else None)
            _check_quantity(session, where, made, metric)
        name = "max_kl" if case.max_kl is not None else "--divergence-max-kl"
        if reason := refusal_of(session, provenance, bound, metric, name):
            raise pytest.UsageError(f"{where}: {reason}")
        bounds[case.id] = bound
    return bounds


def _check_quantity(
    session: DivergenceSession, where: str, made: Measurement | None, metric: str
) -> None:
    """Refuse a limit that was made of `made` for numbers of a metric that is no such quantity."""
    if made is None or is_same_quantity(made.metric, metric):
        return
    asked = session.given.get("metric")
    name = f"{name_of('metric', asked)}={metric}" if asked else f"the default metric, {metric},"
    raise pytest.UsageError(
        f"{where}: its limit is of {made.metric} ({made.unit}), and {name} asks for another "
        "quantity; leave that out, or measure the suite in it with --divergence-update"
    )
