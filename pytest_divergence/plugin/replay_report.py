"""The report of a session that replays suites, if `--divergence-report-dir` asks for it.

Knows the outcome of each item, in this process and in the workers of pytest-xdist. Writes one
report per pair; measures nothing.
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
    Check,
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
from pytest_divergence.core.token_statistics import TokenStatistics
from pytest_divergence.plugin.notes import note
from pytest_divergence.plugin.session import DivergenceSession, of
from pytest_divergence.plugin.usage_errors import error_text, shown_settings
from pytest_divergence.reports.report_files import write_reports
from pytest_divergence.reports.wording import is_of_texts

if TYPE_CHECKING:
    from pytest_divergence.models.pair import ModelPair

NOT_LOADED = ("not loaded", "not loaded")
"""Dtype and device if no case was measured and the suite does not give them."""
UNMEASURED = "it could not be measured; the session's output says why"


@dataclass(frozen=True)
class Entry:
    """The outcome of an item."""

    models: tuple[str, str]
    """The specs; items with equal specs share a report."""
    suite: str
    measured_in: tuple[str, str] | None = None
    """Dtype and device, if it was measured in this session."""
    case: dict[str, Any] | None = None
    """A `ReportCase` as plain JSON."""
    behaviour: dict[str, Any] | None = None
    """A `Behaviour` that the candidate still shows, as plain JSON."""
    tokens: dict[str, Any] | None = None
    """The `TokenStatistics` of the suite's control rows, as plain JSON."""
    check: dict[str, Any] | None = None
    """A `Check` as plain JSON."""


def is_on(session: DivergenceSession) -> bool:
    """Whether this session writes a report: not if its search does, nor if suites change."""
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
    reason: str = "",
) -> None:
    """Record a case's outcome, which is an error until the case is measured.

    `reason` tells more of a verdict than numbers do.
    """
    if not is_on(of(item.config)):
        return

    row = ReportCase(
        **{
            **dict(case),
            "kl": measurement,
            "max_kl": max_kl,
            "verdict": verdict,
            "verdict_reason": UNMEASURED if verdict == "error" else reason,
            "tokens": list(tokens),
        }
    )
    _keep(item, pair, case=row.model_dump(mode="json"))


def keep_behaviour(item: pytest.Item, behaviour: Behaviour) -> None:
    """Record that the candidate still shows a behaviour."""
    if is_on(of(item.config)):
        _keep(item, None, behaviour=behaviour.model_dump(mode="json"), check=None)


def keep_check(item: pytest.Item, verdict: Verdict = "error", sentence: str = UNMEASURED) -> None:
    """Record the outcome of an item that is not a case: an error until it is measured."""
    if is_on(of(item.config)):
        check = Check(name=item.nodeid, verdict=verdict, sentence=sentence)
        _keep(item, None, check=check.model_dump(mode="json"))


def keep_tokens(item: pytest.Item, found: TokenStatistics | None) -> None:
    """Note the divergence at single tokens of a suite's control rows, and record it."""
    if found is None:
        return
    note(item, **{name: value for name, value in found if value is not None})
    if is_on(of(item.config)):
        _keep(item, None, tokens=found.model_dump(mode="json"))


def _keep(item: pytest.Item, pair: ModelPair | None, **what: Any) -> None:
    session = of(item.config)
    models = session.models_for(item.path)
    if models is None:  # a conftest's own pair has no names
        return
    if pair is not None:
        what["measured_in"] = (pair.dtype_name, str(pair.device))
    new = asdict(Entry((models.reference, models.candidate), str(item.path)))
    before = session.replayed.entries.get(item.nodeid, new)
    session.replayed.note(item.nodeid, {**before, **what})


def write_replay_reports(session: DivergenceSession, exitstatus: int) -> list[str]:
    """Write a report for each pair; return a line on where it is, or why there is none."""
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
            lines.append(f"the report was not written: {error_text(session, error)}")
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
    cases = [ReportCase(**entry.case) for entry in entries if entry.case]
    reference, candidate = entries[0].models
    metric = next((case.kl.metric for case in cases if case.kl is not None), settings.metric)
    named = settings.model_copy(
        update={"model_1": reference, "model_2": candidate, "metric": metric}
    )
    made = _provenance({entry.suite for entry in entries})
    stored_in = (made.dtype, made.device) if made is not None else NOT_LOADED
    dtype, device = next((entry.measured_in for entry in entries if entry.measured_in), stored_in)
    found = Report(
        run=Run(id=run_id, mode="replay", status="incomplete" if is_cut else "complete"),
        pair=PairSummary(
            reference=reference,
            candidate=candidate,
            dtype=dtype,
            device=device,
            chat_template=settings.chat_template,
        ),
        settings=named.model_dump(mode="json"),
        verdict_counts=dict(Counter(case.verdict for case in cases)),
        behaviours=[Behaviour(**entry.behaviour) for entry in entries if entry.behaviour],
        cases=cases,
        checks=[Check(**entry.check) for entry in entries if entry.check],
        effort=Effort(
            prompts_scored=sum(case.verdict != "error" for case in cases),
            seconds=_seconds(session),
        ),
    )
    if is_of_texts(found):  # the suite's limits are in nats
        return found
    return found.model_copy(update={"calibration": _calibration(entries, cases)})


def _seconds(session: DivergenceSession) -> float:
    """Return the seconds since the first case began, loading the models included."""
    now, started = time.time(), session.replayed.started
    return max(0.0, round(now - (now if started is None else started), 3))


def _provenance(suites: set[str]) -> Provenance | None:
    """Return the suite's provenance; None for several suites."""
    return read_suite(Path(next(iter(suites)))).provenance if len(suites) == 1 else None


def _calibration(entries: Sequence[Entry], cases: Sequence[ReportCase]) -> Calibration:
    """Return the suite's calibration; for several suites the unit alone."""
    suites = {entry.suite for entry in entries}
    unit = next((case.kl.unit for case in cases if case.kl is not None), NATS_PER_TOKEN)
    if (made := _provenance(suites)) is None:
        return Calibration(unit=unit)
    controls = read_suite(Path(next(iter(suites)))).suite.controls
    values = [control.kl.value for control in controls if control.kl is not None]
    shift = made.typical_shift
    return Calibration(
        unit=unit,
        noise_floor=made.noise_floor,
        bound=made.bound,
        token_statistics=next(
            (TokenStatistics(**entry.tokens) for entry in entries if entry.tokens), None
        ),
        typical_shift=shift and ShiftDistribution(**shift.model_dump(), values=values),
    )
