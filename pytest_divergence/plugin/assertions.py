"""`assert_bounded_kl`: a user's own assertion on one prompt."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pytest_divergence.core.cases import Case, is_same_quantity
from pytest_divergence.core.errors import first_fault
from pytest_divergence.core.provenance import Provenance, provenance_beside
from pytest_divergence.core.verdicts import judge
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.plugin.bounds import metric_for, refuse_noise
from pytest_divergence.plugin.collection import CASE_SUITE, with_suite
from pytest_divergence.plugin.extensions import own_pair
from pytest_divergence.plugin.markers import marker_arguments
from pytest_divergence.plugin.model_pairs import Models, has_own_pair, marked_models
from pytest_divergence.plugin.notes import note
from pytest_divergence.plugin.options import name_of
from pytest_divergence.plugin.replay import answers_of, sizes_for
from pytest_divergence.plugin.session import DivergenceSession, of
from pytest_divergence.plugin.terminal import rerun
from pytest_divergence.plugin.usage_errors import failures, shown_case
from pytest_divergence.reports.failures import failure_text
from pytest_divergence.scoring.scorer import PromptScore, score_prompts
from pytest_divergence.scoring.suite_rows import case_prompt
from pytest_divergence.scoring.token_comparison import compare_tokens


def assert_bounded(
    request: pytest.FixtureRequest, prompt: Any, max_kl: float | None, metric: str | None
) -> PromptScore:
    """Measure a prompt (text, messages or case), and fail if it is over its bound."""
    session = of(request.config)
    with failures(session):
        models = _models_for(request, session)
        pair = _pair_for(request, session, models)
        case = prompt if isinstance(prompt, Case) else _case_of(prompt)
        asserted = metric_for(session, case, metric)
        bound = _assertion_bound(request, session, case, max_kl, asserted, is_ours=models is None)
        (score,) = score_prompts(
            pair,
            [case_prompt(case)],
            metric=asserted,
            **sizes_for(session, pair),
        )
    verdict = judge(score.measurement.value, bound)
    found = score.measurement
    note(
        request.node,
        kind="assertion",
        verdict=verdict,
        kl=found.value,
        bound=bound,
        metric=found.metric,
        unit=found.unit,
    )
    if verdict == "failed":
        text = _assertion_text(request, pair, case, score, bound, is_ours=models is None)
        pytest.fail(text, pytrace=False)
    return score


def _models_for(request: pytest.FixtureRequest, session: DivergenceSession) -> Models | None:
    """Return the models of the test's marker, or of its line in `divergence_pairs`.

    The line is that of the suite which holds the test's case, or of the test's file. None: use a
    conftest's pair or the session's.
    """
    marked = marked_models(request)
    if marked is not None or has_own_pair(request.node):
        return marked
    return session.models_of_line(request.node.stash.get(CASE_SUITE, request.node.path))


def _pair_for(
    request: pytest.FixtureRequest, session: DivergenceSession, models: Models | None
) -> ModelPair:
    if models is None and has_own_pair(request.node):
        return own_pair(request)
    return session.pair_for(request, models)


def _case_of(prompt: Any) -> Case:
    try:
        return Case(input=prompt) if isinstance(prompt, str) else Case(messages=tuple(prompt))
    except ValidationError as error:
        raise ValueError(first_fault(error, Case)) from None


def _assertion_bound(
    request: pytest.FixtureRequest,
    session: DivergenceSession,
    case: Case,
    max_kl: float | None,
    metric: str,
    *,
    is_ours: bool,
) -> float:
    """Return the first bound among argument, marker, case, option and search.

    A search's bound counts only for the session's pair.
    """
    of_markers = (given.get("max_kl") for given in marker_arguments(request.node))
    bound = next((value for value in (max_kl, *of_markers) if value is not None), None)
    if bound is None:
        bound = _bound_of_others(session, case, metric, is_ours=is_ours)
    if bound is None:
        raise pytest.UsageError(
            "assert_bounded_kl has no bound; give max_kl=..., or --divergence-max-kl"
        )
    if not 0 < bound < float("inf"):
        raise ValueError(f"max_kl={bound} must be a positive number of nats per token")
    if is_ours and session.has_models:  # a search of this pair may have measured its noise
        refuse_noise(session, _own_provenance(session), bound, metric)
    return float(bound)


def _bound_of_others(
    session: DivergenceSession, case: Case, metric: str, *, is_ours: bool
) -> float | None:
    """Return the bound of the case, the option or the search; refuse another quantity's."""
    asked = session.resolved.settings.metric
    of_case = case.kl.metric if case.kl is not None else metric
    for whose, made_of, bound in (
        ("the case's bound", of_case, case.max_kl),
        (_option(session), asked, session.number_bound),
        ("the search's bound", *_search_bound(session, is_ours=is_ours)),
    ):
        if bound is None:
            continue
        if not is_same_quantity(made_of, metric):
            raise pytest.UsageError(
                f"assert_bounded_kl(metric={metric!r}) has no bound: {whose} is for {made_of}; "
                "give max_kl=..."
            )
        return bound
    return None


def _option(session: DivergenceSession) -> str:
    """Return the name under which the user gave the session's bound; empty if it is not given."""
    return name_of("max_kl", session.given["max_kl"]) if "max_kl" in session.given else ""


def _search_bound(session: DivergenceSession, *, is_ours: bool) -> tuple[str, float | None]:
    """Return metric and bound of the latest search of the session's pair."""
    asked = session.resolved.settings.metric
    if not (is_ours and session.has_models):
        return asked, None
    if session.report is not None:
        bound = session.report.calibration.bound
        return asked, bound.value if bound else None
    made = _own_provenance(session)
    if made is None or made.bound is None:
        return asked, None
    return str(made.settings.get("metric") or asked), made.bound.value


def _own_provenance(session: DivergenceSession) -> Provenance | None:
    """Return the provenance of the suite that a search of the pair wrote, now or earlier."""
    return provenance_beside(session.own_suite)


def _assertion_text(
    request: pytest.FixtureRequest,
    pair: ModelPair,
    case: Case,
    score: PromptScore,
    bound: float,
    *,
    is_ours: bool,
) -> str:
    session = of(request.config)
    report = session.report if is_ours else None
    floor = report.calibration.noise_floor if report is not None else None
    answers, ids = answers_of(pair, case, sizes_for(session, pair)["max_new_tokens"])
    shown, tokens = shown_case(
        session,
        case.with_changes(completions=answers),
        compare_tokens(pair, score.prompt, ids),
    )
    return failure_text(
        shown,
        measurement=score.measurement,
        max_kl=bound,
        noise_floor=floor.of(score.measurement.metric) if floor else None,
        tokens=tokens,
        rerun=_rerun(request, session, case),
        suite=session.shown(request.node.path),
        verbosity=request.config.get_verbosity(),
    )


def _rerun(request: pytest.FixtureRequest, session: DivergenceSession, case: Case) -> str:
    """Return the command for this test; for a suite's case it also names that case."""
    suite, nodeid = request.node.stash.get(CASE_SUITE, None), request.node.nodeid
    if suite is None:
        return rerun(session, nodeid)
    alone = nodeid.replace(with_suite(suite, case.id), case.id)
    return rerun(session, alone, f"{session.shown(suite)}::{case.id}")
