"""The report of a session that replays suites, where `--divergence-report-dir` asks for one.

Knows what each item came to, in this process and in the workers of pytest-xdist; one report a pair.
Measures nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import NATS_PER_TOKEN, Case, Measurement
from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.file_names import FOLDER, REPORT
from pytest_divergence.core.files import DivergenceFolder
from pytest_divergence.core.provenance import Effort, Provenance
from pytest_divergence.core.redaction import redacted
from pytest_divergence.core.report import (
    Calibration,
    PairSummary,
    Report,
    ReportCase,
    Run,
    ShiftDistribution,
    TokenComparison,
    Verdict,
    write_report,
)
from pytest_divergence.core.suites import read_suite
from pytest_divergence.plugin.session import DivergenceSession, of
from pytest_divergence.plugin.usage_errors import error_text, shown_settings
from pytest_divergence.reports.report_files import write_reports

if TYPE_CHECKING:
    from pytest_divergence.models.pair import ModelPair

NOT_LOADED = ("not loaded", "not loaded")
"""Dtype and device where no case was measured here, and the suite does not say."""
UNMEASURED = "it could not be measured; the output of the session says why"


@dataclass(frozen=True)
class Entry:
    """What one item came to."""

    models: tuple[str, str]
    """The specs; equal ones share a report."""
    suite: str
    measured_in: tuple[str, str] | None = None
    """Dtype and device, where it was measured in this session."""
    case: dict[str, Any] | None = None
    """A `ReportCase` as plain JSON."""
    behaviour: dict[str, Any] | None = None
    """A `Behaviour` that is still shown."""


def is_on(session: DivergenceSession) -> bool:
    """Whether this session leaves a report: not where its search does, nor where suites change."""
    has_search = session.has_search or session.report is not None
    return "report_dir" in session.given and not has_search and session.plan.rewrites is None


def keep_case(
    item: pytest.Item,
    case: Case,
    *,
    verdict: Verdict = "error",
    measurement: Measurement | None = None,
    max_kl: float | None = None,
    tokens: Sequence[TokenComparison] = (),
    pair: ModelPair | None = None,
) -> None:
    """Note how a case went; one that is noted before it is measured stays an error until then."""
    if not is_on(of(item.config)):
        return

    row = ReportCase(
        **{
            **dict(case),
            "kl": measurement,
            "max_kl": max_kl,
            "verdict": verdict,
            "verdict_reason": UNMEASURED if verdict == "error" else "",
            "tokens": list(tokens),
        }
    )
    _keep(item, pair, case=row.model_dump(mode="json"))


def keep_behaviour(item: pytest.Item, behaviour: Behaviour) -> None:
    """Note that a behaviour is still shown."""
    if is_on(of(item.config)):
        _keep(item, None, behaviour=behaviour.model_dump(mode="json"))


def _keep(item: pytest.Item, pair: ModelPair | None, **what: Any) -> None:
    session = of(item.config)
    models = session.models_for(item.path)
    if models is None:  # a conftest's own pair has no names
        return
    entry = Entry(
        (models.reference, models.candidate),
        str(item.path),
        (str(pair.dtype).removeprefix("torch."), str(pair.device)) if pair is not None else None,
        **what,
    )
    session.replayed.note(item.nodeid, asdict(entry))


def write_replay_reports(session: DivergenceSession, exitstatus: int) -> list[str]:
    """Write a report for each pair, and say where it is, or why it is not."""
    if session.plan.process == "worker":  # its controller writes
        return []
    by_pair: dict[tuple[str, str], list[Entry]] = {}
    for _, row in sorted(session.replayed.entries.items()):
        entry = Entry(**{**row, "models": tuple(row["models"])})
        by_pair.setdefault(entry.models, []).append(entry)
    lines = []
    for its in by_pair.values():
        try:
            lines.append(f"report: {session.shown(_written(session, its, exitstatus))}")
        except DivergenceError as error:
            lines.append(f"the report is not written: {error_text(session, error)}")
    return lines


def _written(session: DivergenceSession, entries: Sequence[Entry], exitstatus: int) -> Path:
    settings = session.resolved.settings
    where = DivergenceFolder(session.root, report_dir=Path(settings.report_dir or FOLDER))
    folder = where.new_report_dir(datetime.now().strftime("%Y%m%d-%H%M%S"))
    report = _report(session, entries, folder.name, exitstatus)
    report = redacted(report) if session.is_redacted else report
    write_report(folder / REPORT, report)
    suites = {entry.suite for entry in entries}
    suite = session.shown(Path(suites.pop())) if len(suites) == 1 else None
    write_reports(report, folder, suite=suite, given=shown_settings(session))
    session.config.hook.pytest_divergence_report(config=session.config, report=report)
    return folder / "report.html"


def _report(
    session: DivergenceSession, entries: Sequence[Entry], run_id: str, exitstatus: int
) -> Report:
    is_cut = exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
    settings = session.resolved.settings
    cases = [ReportCase(**one.case) for one in entries if one.case]
    reference, candidate = entries[0].models
    metric = next((one.kl.metric for one in cases if one.kl is not None), settings.metric)
    named = settings.model_copy(
        update={"model_1": reference, "model_2": candidate, "metric": metric}
    )
    made = _provenance({entry.suite for entry in entries})
    stored_in = (made.dtype, made.device) if made is not None else NOT_LOADED
    dtype, device = next((one.measured_in for one in entries if one.measured_in), stored_in)
    return Report(
        run=Run(id=run_id, mode="replay", status="incomplete" if is_cut else "complete"),
        pair=PairSummary(
            reference=reference,
            candidate=candidate,
            dtype=dtype,
            device=device,
            chat_template=settings.chat_template,
        ),
        settings=named.model_dump(mode="json"),
        calibration=_calibration({entry.suite for entry in entries}, cases),
        verdict_counts=dict(Counter(one.verdict for one in cases)),
        behaviours=[Behaviour(**one.behaviour) for one in entries if one.behaviour],
        cases=cases,
        effort=Effort(
            prompts_scored=sum(one.verdict != "error" for one in cases),
            seconds=_seconds(session),
        ),
    )


def _seconds(session: DivergenceSession) -> float:
    """Since the first case was asked for, loading the models included."""
    now, started = time.time(), session.replayed.started
    return max(0.0, round(now - (now if started is None else started), 3))


def _provenance(suites: set[str]) -> Provenance | None:
    """Of the suite, where it is one."""
    return read_suite(Path(next(iter(suites)))).provenance if len(suites) == 1 else None


def _calibration(suites: set[str], cases: Sequence[ReportCase]) -> Calibration:
    """What the suite was calibrated with; nothing but the unit where there are several."""
    unit = next((one.kl.unit for one in cases if one.kl is not None), NATS_PER_TOKEN)
    if (made := _provenance(suites)) is None:
        return Calibration(unit=unit)
    controls = read_suite(Path(next(iter(suites)))).suite.controls
    values = [one.kl.value for one in controls if one.kl is not None]
    shift = made.typical_shift
    return Calibration(
        unit=unit,
        noise_floor=made.noise_floor,
        bound=made.bound,
        typical_shift=shift and ShiftDistribution(**shift.model_dump(), values=values),
    )
