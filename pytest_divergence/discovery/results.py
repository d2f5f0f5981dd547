"""Results of a run: suite, tokens, provenance and report, from what was found.

Knows what each file says about a run. Does not know how it was found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import Case, Completions, Origin, case_id
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
    Leads,
    PairSummary,
    PowerPoint,
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
from pytest_divergence.discovery.rounds import SearchLog
from pytest_divergence.discovery.scored_proposals import ScoredProposal
from pytest_divergence.models.fingerprints import ModelIdentity

NOT_OF_A_SUITE = {
    *("update", "fill", "redact", "allow_same_model"),
    *("engine", "workers", "worker_gpus", "worker_timeout"),
}
"""Settings of a session that do not change the suite."""


@dataclass
class RunState:
    """Findings of a run so far; filled step by step, so that an interrupted run has a report."""

    calibrated: Calibrated | None = None
    bound: Bound | None = None
    search: SearchLog = field(default_factory=SearchLog)
    confirmed: list[ConfirmedCase] = field(default_factory=list)
    exported: dict[str, Case] = field(default_factory=dict)
    """The suite's rows by id, after the hook that may change or drop them."""
    behaviours: list[Behaviour] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    first_behaviour: FirstFound | None = None
    """Work until the first behaviour was confirmed."""
    first_lead: FirstFound | None = None
    """Work until the first lead was named."""
    lead_counts: Leads | None = None
    """Leads watched and tested; None before they are."""
    power: list[PowerPoint] | None = None
    """Power of the tests of leads; None before they are carried out."""
    errors: list[RunError] = field(default_factory=list)
    reason: str = ""
    """The cause that stopped the run, where it is no error."""
    dtype: str = "not loaded"
    template_sha256: str | None = None
    template_arguments: dict[str, JsonValue] = field(default_factory=dict)

    @property
    def cases(self) -> list[ConfirmedCase]:
        """Confirmed prompts that gate; those listed separately are left out."""
        return [case for case in self.confirmed if not case.selected.is_off_distribution]


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
    """Return the run as one value; an incomplete one shows its best proposals as not measured."""
    cases = _report_cases(state)
    if not is_complete and not state.confirmed:
        cases = [_unconfirmed(scored) for scored in state.search.best[:num_unconfirmed]]
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
        verdict_counts=dict(Counter(case.verdict for case in cases if not case.off_distribution)),
        behaviours=state.behaviours,
        cases=cases,
        strategies=_strategies(state),
        training=state.search.training,
        search_curve=state.search.curve,
        differences=state.differences,
        case_set=_case_set(state),
        first_behaviour=state.first_behaviour,
        first_lead=state.first_lead,
        leads=state.lead_counts,
        power=state.power,
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
    training_data_sha256: str | None,
    contexts_sha256: str | None,
    carried: Sequence[Behaviour] = (),
) -> None:
    """Write the suite with its tokens and provenance, with `carried` behaviours that users accept.

    Raises SuiteError, StoreError.
    """
    calibrated, bound = state.calibrated, state.bound
    assert calibrated is not None  # the run confirms only after it has calibrated
    ordinary = calibrated.ordinary(state.behaviours)
    controls = [
        control for control in calibrated.controls if case_id(control.text) not in state.exported
    ][:NUM_CONTROL_ROWS]
    stored = [case.stored for case in _exported(state)]
    stored += [control.stored for control in controls]
    made = provenance_of(
        identity,
        settings,
        key=key,
        dtype=state.dtype,
        template_sha256=state.template_sha256,
        template_arguments=state.template_arguments,
    )
    measured = {
        "training_data_sha256": training_data_sha256,
        "contexts_sha256": contexts_sha256,
        "noise_floor": calibrated.noise_floor,
        "typical_shift": calibrated.shift.summary(),
        "bound": bound,
        "nll_limit": calibrated.nll_limit,
        "behaviours": [*state.behaviours, *carried],
        "effort": ledger.effort,
    }
    rows = list(state.exported.values())
    rows += [control.case(is_ordinary=control in ordinary) for control in controls]
    write_stored(path, rows, stored, made.model_copy(update=measured))


def provenance_of(
    identity: RunIdentity,
    settings: Settings,
    *,
    key: str,
    dtype: str,
    template_sha256: str | None,
    template_arguments: dict[str, JsonValue],
) -> Provenance:
    """Return the record of these models and settings, dated now; measured parts are added later."""
    return Provenance(
        tool_version=versions()["pytest-divergence"],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        key=key,
        reference=_model(identity.reference),
        candidate=_model(identity.candidate),
        tokenizer_sha256=identity.tokenizer_sha256,
        template_sha256=template_sha256,
        template_arguments=template_arguments,
        dtype=dtype,
        device=identity.device,
        versions=versions(),
        settings=settings.model_dump(mode="json", exclude=NOT_OF_A_SUITE),
    )


def _exported(state: RunState) -> list[ConfirmedCase]:
    """Return the cases that the suite holds."""
    return [confirmed for confirmed in state.cases if confirmed.case.id in state.exported]


def _report_cases(state: RunState) -> list[ReportCase]:
    if state.bound is None:
        return []
    bound = state.bound.value
    rows: list[ReportCase] = []
    for confirmed in state.confirmed:
        is_off, case = confirmed.selected.is_off_distribution, confirmed.case
        row = case.with_changes(max_kl=bound) if is_off else state.exported.get(case.id)
        if row is None:  # a hook has dropped it
            continue
        if row.max_kl is None:  # or has left it without a limit of its own
            row = row.with_changes(max_kl=bound)
        verdict, reason = _verdict(row)
        rows.append(
            ReportCase(
                **dict(row),
                verdict=verdict,
                verdict_reason=reason,
                excess=_excess(state, row),
                prompt_nll=confirmed.selected.prompt_nll,
                candidate_prompt_nll=confirmed.candidate_nll,
                off_distribution=is_off,
                tokens=confirmed.tokens,
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


def _unconfirmed(scored: ScoredProposal) -> ReportCase:
    proposal = scored.proposal
    return ReportCase(
        input=proposal.text,
        completions=Completions(reference=scored.reference, candidate=scored.candidate.text),
        origin=Origin(strategy=proposal.strategy, seed=proposal.seed, search_kl=scored.search_kl),
        verdict="error",
        verdict_reason="found by the search, but not confirmed: the run stopped too early",
    )


def _case_set(state: RunState) -> CaseSet | None:
    exported = _exported(state)
    if not exported:
        return None
    cases = [confirmed.case for confirmed in exported]
    texts = [case.text for case in cases]
    searched = [confirmed.selected.scored.search_kl for confirmed in exported]
    measured = [case.kl.value for case in cases if case.kl is not None]
    return CaseSet(
        distinct_1=distinct_share(texts, 1),
        distinct_2=distinct_share(texts, 2),
        self_similarity=self_similarity(texts),
        shrinkage=sum(measured) / sum(searched) if sum(searched) > 0 else None,
    )


def _strategies(state: RunState) -> list[StrategySummary]:
    selected = Counter(case.selected.scored.proposal.strategy for case in state.cases)
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
