"""What a run leaves behind: suite, tokens, provenance and report, from what was found.

Knows what each file says of a run. Does not know how it was found.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import Case, Completions, Origin
from pytest_divergence.core.provenance import (
    Bound,
    ModelProvenance,
    Provenance,
)
from pytest_divergence.core.report import (
    Calibration,
    CaseSet,
    Difference,
    FirstFound,
    PairSummary,
    Report,
    ReportCase,
    Run,
    RunError,
    StrategySummary,
    Verdict,
)
from pytest_divergence.core.settings import Settings
from pytest_divergence.core.suites import NUM_CONTROL_ROWS, write_stored
from pytest_divergence.core.verdicts import judge
from pytest_divergence.discovery.calibration import Calibrated
from pytest_divergence.discovery.confirmation import ConfirmedCase
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.plan import RunIdentity, versions
from pytest_divergence.discovery.proposals import distinct_share, self_similarity
from pytest_divergence.discovery.rounds import ScoredProposal, SearchLog
from pytest_divergence.models.chat_format import FROZEN_ARGUMENTS
from pytest_divergence.models.fingerprints import ModelIdentity

NOT_OF_A_SUITE = {"update", "fill", "redact", "allow_same_model"}
"""Settings of how a session went about it: the same suite comes of any of them."""


@dataclass
class RunState:
    """What a run has so far; filled step by step, so that an interruption can report it."""

    calibrated: Calibrated | None = None
    bound: Bound | None = None
    search: SearchLog = field(default_factory=SearchLog)
    confirmed: list[ConfirmedCase] = field(default_factory=list)
    exported: dict[str, Case] = field(default_factory=dict)
    """The suite's rows by id, after the hook that may change or drop them."""
    behaviours: list[Behaviour] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    first_found: tuple[float, int] | None = None
    """Seconds and forwarded tokens when the first behaviour was confirmed."""
    errors: list[RunError] = field(default_factory=list)
    reason: str = ""
    """What stopped the run, where that is no error."""
    dtype: str = "not loaded"
    template_sha256: str | None = None

    @property
    def cases(self) -> list[ConfirmedCase]:
        """Confirmed prompts that gate: not those reported apart."""
        return [one for one in self.confirmed if not one.selected.is_off_distribution]


def build_report(
    state: RunState,
    settings: Settings,
    identity: RunIdentity,
    ledger: Ledger,
    *,
    run_id: str,
    is_complete: bool,
    num_unconfirmed: int,
) -> Report:
    """The whole run as one value; an incomplete one shows its best proposals as not measured."""
    cases = _report_cases(state)
    if not is_complete and not state.confirmed:
        cases = [_unconfirmed(one) for one in state.search.best[:num_unconfirmed]]
    calibration = Calibration()
    if state.calibrated is not None and state.bound is not None:
        calibration = state.calibrated.as_report(state.bound)
    return Report(
        run=Run(
            id=run_id,
            mode="search",
            status="complete" if is_complete else "incomplete",
            reason=state.reason,
        ),
        pair=PairSummary(
            reference=identity.reference.spec,
            candidate=identity.candidate.spec,
            dtype=state.dtype,
            device=identity.device,
            chat_template=settings.chat_template,
        ),
        settings=settings.model_dump(mode="json"),
        calibration=calibration,
        verdict_counts=dict(Counter(one.verdict for one in cases if not one.off_distribution)),
        behaviours=state.behaviours,
        cases=cases,
        strategies=_strategies(state),
        training=state.search.training,
        search_curve=state.search.curve,
        differences=state.differences,
        case_set=_case_set(state),
        first_behaviour=None
        if state.first_found is None
        else FirstFound(
            seconds=round(state.first_found[0], 3), tokens_forwarded=state.first_found[1]
        ),
        errors=[*state.errors, *state.search.errors],
        effort=ledger.effort,
    )


def write_suite_files(
    path: Path,
    state: RunState,
    settings: Settings,
    identity: RunIdentity,
    ledger: Ledger,
    *,
    key: str,
) -> None:
    """Write the suite with its tokens and provenance. Raises SuiteError, StoreError."""
    calibrated, bound = state.calibrated, state.bound
    assert calibrated is not None  # the run confirms only after it has calibrated
    cases = [one for one in state.cases if one.case.id in state.exported]
    controls = [one for one in calibrated.controls if one.case.id not in state.exported]
    controls = controls[:NUM_CONTROL_ROWS]
    stored = [*(one.stored for one in cases), *(one.stored for one in controls)]
    made = provenance_of(
        identity,
        settings,
        key=key,
        dtype=state.dtype,
        template_sha256=state.template_sha256,
    )
    measured = {
        "noise_floor": calibrated.noise_floor,
        "typical_shift": calibrated.shift.summary(),
        "bound": bound,
        "nll_limit": calibrated.nll_limit,
        "behaviours": state.behaviours,
        "effort": ledger.effort,
    }
    rows = [*state.exported.values(), *(one.case for one in controls)]
    write_stored(path, rows, stored, made.model_copy(update=measured))


def provenance_of(
    identity: RunIdentity,
    settings: Settings,
    *,
    key: str,
    dtype: str,
    template_sha256: str | None,
) -> Provenance:
    """The record of these models and settings, as of now; measured parts are still to come."""
    return Provenance(
        tool_version=versions()["pytest-divergence"],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        key=key,
        reference=_model(identity.reference),
        candidate=_model(identity.candidate),
        tokenizer_sha256=identity.tokenizer_sha256,
        template_sha256=template_sha256,
        template_arguments=dict(FROZEN_ARGUMENTS),
        dtype=dtype,
        device=identity.device,
        versions=versions(),
        settings=settings.model_dump(mode="json", exclude=NOT_OF_A_SUITE),
    )


def _report_cases(state: RunState) -> list[ReportCase]:
    if state.bound is None:
        return []
    bound = state.bound.value
    rows: list[ReportCase] = []
    for one in state.confirmed:
        is_off = one.selected.is_off_distribution
        case = one.case.with_changes(max_kl=bound) if is_off else state.exported.get(one.case.id)
        if case is None:  # a hook has dropped it
            continue
        verdict, reason = _verdict(case)
        rows.append(
            ReportCase(
                **dict(case),
                verdict=verdict,
                verdict_reason=reason,
                excess=_excess(state, case),
                prompt_nll=one.selected.prompt_nll,
                candidate_prompt_nll=one.candidate_nll,
                off_distribution=is_off,
                tokens=one.tokens,
            )
        )
    return rows


def _verdict(case: Case) -> tuple[Verdict, str]:
    assert case.kl is not None  # confirmation measures every case
    assert case.max_kl is not None  # and the run gives it its bound
    verdict = judge(case.kl.value, case.max_kl)
    relation = "<=" if verdict == "passed" else ">"
    limit = f"max_kl {case.max_kl:.3f} {case.kl.unit}"
    return verdict, f"{case.kl.quantity} {case.kl.value:.3f} {relation} {limit}"


def _excess(state: RunState, case: Case) -> float | None:
    if case.kl is None or state.calibrated is None:
        return None
    return case.kl.value - state.calibrated.shift.mean


def _unconfirmed(one: ScoredProposal) -> ReportCase:
    proposal = one.proposal
    return ReportCase(
        input=proposal.text,
        completions=Completions(reference=one.reference, candidate=one.candidate.text),
        origin=Origin(strategy=proposal.strategy, seed=proposal.seed, search_kl=one.search_kl),
        verdict="error",
        verdict_reason="found by the search, but not confirmed: the run stopped before that",
    )


def _case_set(state: RunState) -> CaseSet | None:
    cases = [one for one in state.cases if one.case.id in state.exported]
    if not cases:
        return None
    texts = [one.case.text for one in cases]
    searched = [one.selected.scored.search_kl for one in cases]
    confirmed = [one.case.kl.value for one in cases if one.case.kl is not None]
    return CaseSet(
        distinct_1=distinct_share(texts, 1),
        distinct_2=distinct_share(texts, 2),
        self_similarity=self_similarity(texts),
        shrinkage=sum(confirmed) / sum(searched) if sum(searched) > 0 else None,
    )


def _strategies(state: RunState) -> list[StrategySummary]:
    selected = Counter(one.selected.scored.proposal.strategy for one in state.cases)
    return [
        summary.model_copy(update={"num_selected": selected[summary.name]})
        for summary in state.search.strategies.values()
    ]


def _model(identity: ModelIdentity) -> ModelProvenance:
    return ModelProvenance(
        spec=identity.spec,
        kind=identity.kind,
        weights_sha256=identity.weights_sha256,
        commit=identity.commit,
    )
