"""The whole calibration of a pair: noise, nuisances, typical shift, bound, positive control.

Shares its journal with searches of the pair: what either has measured, the other reads back. Does
not know how a number is measured, nor how a report looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pytest_divergence.core.calibration_record import (
    CalibrationReport,
    Nuisance,
    NuisanceKind,
    Planted,
)
from pytest_divergence.core.errors import MeasurementError, NonFiniteLogitsError
from pytest_divergence.core.report import PairSummary
from pytest_divergence.core.settings import Settings
from pytest_divergence.discovery.calibration import Calibrated, Control, calibrate, noise_prompts
from pytest_divergence.discovery.engines.base import WorkUnits
from pytest_divergence.discovery.engines.in_process import InProcess
from pytest_divergence.discovery.plan import (
    CalibrationPlan,
    PairFiles,
    RunIdentity,
    identify,
    open_journal,
)
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.models.batching import is_out_of_memory
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.sensitivity import (
    SIZES,
    attention_of,
    measure_nuisance,
    nuisances_of,
    planted_kls,
    reason_of,
)

NUM_PLANTED_PROMPTS = 8
"""The first controls: as many cases as a small suite has."""
NO_MEMORY = "memory ran out"


def calibration_report(
    settings: Settings,
    *,
    root: Path,
    load_pair: Callable[[], ModelPair],
    listener: Listener,
    identity: RunIdentity | None = None,
) -> CalibrationReport:
    """Measure what is not in the calibration's journal yet, and put it all together.

    `load_pair` is called when the first measurement needs the models. Raises `DivergenceError`s.
    """
    identity = identity or identify(settings)
    plan = CalibrationPlan.of(settings, identity)
    files = PairFiles(root, settings)
    with (
        files.locked(listener),
        open_journal(files.calibration(plan.key), plan.key, listener) as journal,
    ):
        units = WorkUnits(InProcess(journal, load_pair))
        dtype, attention, others = units.do("calibrate/pair", _about)
        calibrated = calibrate(
            units,
            plan.profile,
            plan.controls,
            listener,
            metric=settings.metric,
            seed=settings.seed,
        )
        bound = calibrated.bound(settings.max_kl)
        nuisances = _nuisances(units, settings, others, calibrated, listener)
        planted = _planted(units, settings, calibrated.controls, bound.value, listener)
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
            planted_prompts=[one.text for one in calibrated.controls[:NUM_PLANTED_PROMPTS]],
            effort=units.effort,
            is_cached=units.spent.num_computed == 0,
        )


def _about(pair: ModelPair) -> list[object]:
    dtype = str(pair.dtype).split(".")[-1]
    return [dtype, attention_of(pair), nuisances_of(pair)]


def _nuisances(
    units: WorkUnits,
    settings: Settings,
    others: Sequence[tuple[NuisanceKind, str]],
    calibrated: Calibrated,
    listener: Listener,
) -> list[Nuisance]:
    given = noise_prompts(calibrated.controls)
    rows = []
    for number, (kind, setting) in enumerate(others):
        listener.progress(f"nuisance: {kind} {setting}", number, len(others))

        def measure(
            pair: ModelPair, kind: NuisanceKind = kind, setting: str = setting
        ) -> dict[str, object]:
            return measure_nuisance(
                pair, kind, setting, *given, metric=settings.metric
            ).model_dump()

        try:
            row = Nuisance(**units.do(f"calibrate/nuisance/{kind}/{setting}", measure))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            row = Nuisance(kind=kind, setting=setting, reason=NO_MEMORY)
        rows.append(row)
    return rows


def _planted(
    units: WorkUnits,
    settings: Settings,
    controls: Sequence[Control],
    bound: float,
    listener: Listener,
) -> list[Planted]:
    """Each size on the same controls; what a bound makes of it costs nothing to say again."""
    chosen = controls[:NUM_PLANTED_PROMPTS]
    rows = []
    for number, size in enumerate(SIZES):
        listener.progress(f"positive control: noise of {size:g}", number, len(SIZES))
        try:
            measured = units.do(
                f"calibrate/planted/{size:g}", partial(_plant, chosen, settings, size)
            )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            measured = {"values": [], "reason": NO_MEMORY}
        num_over = sum(value > bound for value in measured["values"])
        rows.append(Planted(size=size, num_over=num_over, **measured))
    return rows


def _plant(
    controls: Sequence[Control], settings: Settings, size: float, pair: ModelPair
) -> dict[str, object]:
    cases = [one.case for one in controls]
    try:
        values = planted_kls(
            pair,
            cases,
            {case.id: one.stored for case, one in zip(cases, controls, strict=True)},
            size=size,
            seed=row_seed(settings.seed, "planted"),
            metric=settings.metric,
        )
    except (MeasurementError, NonFiniteLogitsError) as error:
        return {"values": [], "reason": reason_of(error)}
    return {"values": values, "reason": None}
