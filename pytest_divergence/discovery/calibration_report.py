"""The whole calibration of a pair: noise, nuisances, typical shift, bound, positive control.

Shares its journal with searches of the pair: what one has measured, the other reads back. Does
not know how a number is measured, nor how a report looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_divergence.core.calibration_record import (
    CalibrationReport,
    InjectedNoise,
    Nuisance,
    NuisanceKind,
)
from pytest_divergence.core.errors import MeasurementError, NonFiniteLogitsError
from pytest_divergence.core.report import PairSummary
from pytest_divergence.core.settings import MetricName, Settings
from pytest_divergence.discovery.calibration import Calibrated, Control, calibrate
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.discovery.engines.in_process import InProcess
from pytest_divergence.discovery.plan import (
    CalibrationPlan,
    PairFiles,
    RunIdentity,
    identify,
    open_journal,
)
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.soft_prompts.virtual_tokens import artefact_folder
from pytest_divergence.models.batching import is_out_of_memory
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.sensitivity import (
    SIZES,
    attention_of,
    injected_kls,
    measure_nuisance,
    nuisances_of,
    reason_of,
)

NUM_NUISANCE_PROMPTS = 20
NUM_INJECTED_PROMPTS = 8
"""The first controls: as many cases as a small suite has."""
NO_MEMORY = "out of memory"


def calibration_report(
    settings: Settings,
    *,
    root: Path,
    load_pair: Callable[[], ModelPair],
    listener: Listener,
    identity: RunIdentity | None = None,
) -> CalibrationReport:
    """Measure what the calibration's journal lacks, and return the whole report.

    `load_pair` is called when the first measurement needs the models. Raises `DivergenceError`s.
    """
    identity = identity or identify(settings)
    plan = CalibrationPlan.of(settings, identity)
    files = PairFiles(root, settings)
    with (
        files.locked(listener),
        open_journal(files.calibration(plan.key), plan.key, listener) as journal,
    ):
        ledger = Ledger(InProcess(journal, load_pair, listener, artefact_folder(plan.key)))
        dtype, attention, others = ledger.result(WorkUnit("calibrate/pair", _pair_facts))
        calibrated = calibrate(
            ledger,
            plan.profile,
            plan.controls,
            listener,
            metric=settings.metric,
            seed=settings.seed,
        )
        bound = calibrated.bound(settings.max_kl, plan.profile.num_seeds)
        nuisances = _nuisances(ledger, settings, others, calibrated, listener)
        planted = _planted(ledger, settings, calibrated.controls, bound.value, listener)
        return CalibrationReport(
            pair=PairSummary(
                reference=identity.reference.spec,
                candidate=identity.candidate.spec,
                dtype=dtype,
                device=identity.device,
                chat_template=settings.chat_template,
            ),
            attention=attention,
            metric=settings.metric,
            unit=calibrated.unit,
            profile=plan.profile.name,
            noise_floor=calibrated.noise_floor,
            nuisances=nuisances,
            typical_shift=calibrated.shift.summary(),
            bound=bound,
            planted=planted,
            planted_prompts=[
                control.text for control in calibrated.controls[:NUM_INJECTED_PROMPTS]
            ],
            effort=ledger.effort,
            is_cached=ledger.spent.num_computed == 0,
        )


def _pair_facts(worker: Worker) -> list[object]:
    """The dtype's name, the reference's attention, and the kinds of nuisance that apply."""
    pair = worker.pair
    return [pair.dtype_name, attention_of(pair), nuisances_of(pair)]


def _nuisances(
    ledger: Ledger,
    settings: Settings,
    others: Sequence[tuple[NuisanceKind, str]],
    calibrated: Calibrated,
    listener: Listener,
) -> list[Nuisance]:
    short = sorted(calibrated.controls, key=lambda control: len(control.text))
    short = short[:NUM_NUISANCE_PROMPTS]
    rows = []
    for number, (kind, setting) in enumerate(others):
        listener.progress(f"nuisance: {kind} {setting}", number, len(others))

        unit = WorkUnit(
            f"calibrate/nuisance/{kind}/{setting}",
            _measure_nuisance,
            {
                "kind": kind,
                "setting": setting,
                "texts": [control.text for control in short],
                "answers": [control.candidate.token_ids for control in short],
                "metric": settings.metric,
            },
        )
        try:
            row = Nuisance(**ledger.result(unit))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            row = Nuisance(kind=kind, setting=setting, reason=NO_MEMORY)
        rows.append(row)
    return rows


def _planted(
    ledger: Ledger,
    settings: Settings,
    controls: Sequence[Control],
    bound: float,
    listener: Listener,
) -> list[InjectedNoise]:
    """Measure noise of each size on the same controls; another bound needs no new measurement."""
    chosen = controls[:NUM_INJECTED_PROMPTS]
    rows = []
    for number, size in enumerate(SIZES):
        listener.progress(f"positive control: noise of {size:g}", number, len(SIZES))
        arguments = {
            "controls": chosen,
            "size": size,
            "seed": row_seed(settings.seed, "planted"),
            "metric": settings.metric,
        }
        try:
            measured = ledger.result(
                WorkUnit(f"calibrate/planted/{size:g}", _inject_noise, arguments)
            )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            measured = {"values": [], "reason": NO_MEMORY}
        num_over = sum(value > bound for value in measured["values"])
        rows.append(InjectedNoise(size=size, num_over=num_over, **measured))
    return rows


def _measure_nuisance(
    worker: Worker,
    *,
    kind: NuisanceKind,
    setting: str,
    texts: Sequence[str],
    answers: Sequence[Sequence[int]],
    metric: MetricName,
) -> dict[str, object]:
    measured = measure_nuisance(worker.pair, kind, setting, texts, answers, metric=metric)
    return measured.model_dump()


def _inject_noise(
    worker: Worker, *, controls: Sequence[Control], size: float, seed: int, metric: MetricName
) -> dict[str, object]:
    cases = [control.case() for control in controls]
    try:
        values = injected_kls(
            worker.pair,
            cases,
            {case.id: control.stored for case, control in zip(cases, controls, strict=True)},
            size=size,
            seed=seed,
            metric=metric,
        )
    except (MeasurementError, NonFiniteLogitsError) as error:
        return {"values": [], "reason": reason_of(error)}
    return {"values": values, "reason": None}
