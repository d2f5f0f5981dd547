"""The report of a session that replays suites, if `--divergence-report-dir` asks for it.

Knows the outcome of each item, in this process and in the workers of pytest-xdist. Writes one
report per pair; measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import NATS_PER_TOKEN, Case, Measurement, Record
from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.file_names import FOLDER, REPORT
from pytest_divergence.core.files import DivergenceFolder
from pytest_divergence.core.provenance import Effort, Provenance
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.redaction import redacted, redacted_behaviour, redacted_case
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
from pytest_divergence.plugin.gaps import suite_of, tally_of
from pytest_divergence.plugin.model_pairs import Models, has_own_pair
from pytest_divergence.plugin.notes import ENTRY, SENT, note
from pytest_divergence.plugin.session import DivergenceSession, of
from pytest_divergence.plugin.usage_errors import error_text, shown_settings
from pytest_divergence.reports.report_files import write_reports
from pytest_divergence.reports.wording import is_of_texts

if TYPE_CHECKING:
    from pytest_divergence.models.pair import ModelPair

NOT_LOADED = ("not loaded", "not loaded")
"""Dtype and device if no case was measured and the suite does not give them."""
BROKEN = "it ended with an error; the session's output says why"
UNMEASURED = "it could not be measured; the session's output says why"


class Entry(Record):
    """The outcome of an item."""

    measured_in: tuple[str, str] | None = None
    """Dtype and device, if it was measured in this session."""
    case: ReportCase | None = None
    behaviour: Behaviour | None = None
    """A behaviour that the candidate still shows."""
    is_of_own_pair: bool = False
    """Whether a fixture of the user's gives its models, so that they have no names."""
    tokens: TokenStatistics | None = None
    """Divergence at single tokens of the suite's control rows."""
    check: Check | None = None

    @property
    def tells_failure(self) -> bool:
        """Whether it says that the item did not pass."""
        judged = (part.verdict for part in (self.case, self.check) if part is not None)
        return self.behaviour is not None or any(map(("failed", "error").__contains__, judged))


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
    is_redacted = of(item.config).is_redacted
    _keep(
        item,
        case=redacted_case(row) if is_redacted else row,
        measured_in=(pair.dtype_name, str(pair.device)) if pair is not None else None,
    )


def keep_behaviour(item: pytest.Item, behaviour: Behaviour) -> None:
    """Record that the candidate still shows a behaviour."""
    is_redacted = of(item.config).is_redacted
    shown = redacted_behaviour(behaviour) if is_redacted else behaviour
    _keep(item, behaviour=shown, check=None)


def keep_check(item: pytest.Item, verdict: Verdict = "error", sentence: str = UNMEASURED) -> None:
    """Record the outcome of an item that is not a case: an error until it is measured."""
    _keep(item, check=Check(name=item.nodeid, verdict=verdict, sentence=sentence))


def keep_tokens(item: pytest.Item, found: TokenStatistics | None) -> None:
    """Note the divergence at single tokens of a suite's control rows, and record it."""
    if found is not None:
        note(item, **{name: value for name, value in found if value is not None})
        _keep(item, tokens=found)


def _keep(item: pytest.Item, **what: Any) -> None:
    if is_on(of(item.config)):
        entry = item.stash.get(ENTRY, Entry(is_of_own_pair=has_own_pair(item)))
        item.stash[ENTRY] = entry.model_copy(update=what)


@dataclass(frozen=True)
class Replay:
    """The items of one pair's suites, and their outcomes."""

    models: Models
    nodeids: Sequence[str]
    suites: set[Path]
    entries: Sequence[Entry]
    """Outcomes of the items that ended and were not skipped."""
    num_missing: int
    """Items that did not run to their end."""
    seconds: float
    """From the start of the first item to the end of the last, loading the models included."""


def write_replay_reports(
    session: DivergenceSession, reports: Sequence[pytest.TestReport]
) -> list[str]:
    """Write a report for each named pair; return lines on where it is, or why there is none."""
    if session.plan.process == "worker" or not is_on(session):  # its controller writes
        return []
    items: dict[str, list[pytest.TestReport]] = {id_: [] for id_ in tally_of(session).planned}
    for report in reports:
        if suite_of(report.nodeid):
            items.setdefault(report.nodeid, []).append(report)
    entries = {id_: entry for id_, its in items.items() if (entry := _entry(id_, its)) is not None}
    nameless = {suite_of(id_) for id_, entry in entries.items() if entry.is_of_own_pair}
    named = {id_: its for id_, its in items.items() if suite_of(id_) not in nameless}
    lines = [
        f"{session.shown(session.file_of(suite))} is in no report: a fixture of yours "
        "gives its models, which have no names"
        for suite in sorted(nameless)
    ]
    for replay in _replays(session, named, entries):
        try:
            lines.append(f"report: {session.shown(_written(session, replay))}")
        except DivergenceError as error:
            lines.append(f"the report was not written: {error_text(session, error)}")
    return lines


def _replays(
    session: DivergenceSession,
    items: Mapping[str, Sequence[pytest.TestReport]],
    outcomes: Mapping[str, Entry],
) -> Iterator[Replay]:
    """Yield the replay of each pair of which anything was recorded."""
    by_pair: dict[Models, list[str]] = {}
    for nodeid in sorted(items):
        models = session.models_for(session.file_of(nodeid))
        if models is not None:
            by_pair.setdefault(models, []).append(nodeid)
    for models, its in by_pair.items():
        entries = [outcomes[id_] for id_ in its if id_ in outcomes]
        times = [(ran.start, ran.stop) for id_ in its for ran in items[id_] if ran.start]
        if entries:
            yield Replay(
                models,
                its,
                set(map(session.file_of, its)),
                entries,
                num_missing=sum(not any(map(_is_end, items[id_])) for id_ in its),
                seconds=_span(times),
            )


def _span(times: Sequence[tuple[float, float]]) -> float:
    """Return the seconds from the first start to the last stop; 0 for no times.

    pytest-xdist gives the item that killed a worker no start, and that may be the only item.
    """
    if not times:
        return 0.0
    return max(stop for _, stop in times) - min(start for start, _ in times)


def _entry(nodeid: str, reports: Sequence[pytest.TestReport]) -> Entry | None:
    """Return an item's outcome; None if it has none.

    A failure that the item itself does not tell of, such as a fixture's, is an error.
    """
    sent = [text for report in reports if (text := getattr(report, SENT, None)) is not None]
    entry = Entry.model_validate_json(sent[-1]) if sent else None
    if not any(report.failed for report in reports) or (entry is not None and entry.tells_failure):
        return entry
    entry = entry or Entry()
    check = Check(name=nodeid, verdict="error", sentence=BROKEN)
    if entry.check is not None and entry.check.verdict == "inconclusive":  # a warning is an error
        check = entry.check.model_copy(update={"verdict": "failed"})
    return entry.model_copy(update={"check": check})


def _is_end(report: pytest.TestReport) -> bool:
    """Whether a test's report is its verdict."""
    return report.when not in ("setup", "teardown") or not report.passed


def _written(session: DivergenceSession, replay: Replay) -> Path:
    settings = session.resolved.settings
    where = DivergenceFolder(session.root, report_dir=Path(settings.report_dir or FOLDER))
    folder = where.new_report_dir(datetime.now().strftime("%Y%m%d-%H%M%S"))
    report = _report(session, replay, folder.name)
    report = redacted(report) if session.is_redacted else report
    write_report(folder / REPORT, report)
    suites: dict[str, list[str]] = {}
    for nodeid in replay.nodeids:
        shown = session.shown(session.file_of(nodeid))
        suites.setdefault(nodeid.partition("::")[2], []).append(shown)
    write_reports(report, folder, suite=suites, given=shown_settings(session))
    session.config.hook.pytest_divergence_report(config=session.config, report=report)
    return folder / "report.html"


def _report(session: DivergenceSession, replay: Replay, run_id: str) -> Report:
    settings, entries, models = session.resolved.settings, replay.entries, replay.models
    cases = [entry.case for entry in entries if entry.case is not None]
    metric = next((case.kl.metric for case in cases if case.kl is not None), settings.metric)
    named = settings.model_copy(
        update={"model_1": models.reference, "model_2": models.candidate, "metric": metric}
    )
    made = _provenance(replay.suites)
    stored_in = (made.dtype, made.device) if made is not None else NOT_LOADED
    dtype, device = next((entry.measured_in for entry in entries if entry.measured_in), stored_in)
    run = Run(id=run_id, mode="replay", status="complete")
    if replay.num_missing:
        reason = f"{replay.num_missing} of {number_of(len(replay.nodeids), 'item')} did not run"
        run = Run(id=run_id, mode="replay", status="incomplete", reason=reason)
    found = Report(
        run=run,
        pair=PairSummary(
            reference=models.reference,
            candidate=models.candidate,
            dtype=dtype,
            device=device,
            chat_template=settings.chat_template,
        ),
        settings=named.model_dump(mode="json"),
        verdict_counts=dict(Counter(case.verdict for case in cases)),
        behaviours=[entry.behaviour for entry in entries if entry.behaviour is not None],
        cases=cases,
        checks=[entry.check for entry in entries if entry.check is not None],
        effort=Effort(
            prompts_scored=sum(case.verdict != "error" for case in cases),
            seconds=round(replay.seconds, 3),
        ),
    )
    if is_of_texts(found):  # the suite's limits are in nats
        return found
    return found.model_copy(update={"calibration": _calibration(replay, cases)})


def _provenance(suites: set[Path]) -> Provenance | None:
    """Return the suite's provenance; None for several suites."""
    return read_suite(*suites).provenance if len(suites) == 1 else None


def _calibration(replay: Replay, cases: Sequence[ReportCase]) -> Calibration:
    """Return the suite's calibration; for several suites the unit alone."""
    unit = next((case.kl.unit for case in cases if case.kl is not None), NATS_PER_TOKEN)
    if (made := _provenance(replay.suites)) is None:
        return Calibration(unit=unit)
    controls = read_suite(*replay.suites).suite.controls
    values = [control.kl.value for control in controls if control.kl is not None]
    shift = made.typical_shift
    return Calibration(
        unit=unit,
        noise_floor=made.noise_floor,
        bound=made.bound,
        token_statistics=next((entry.tokens for entry in replay.entries if entry.tokens), None),
        typical_shift=shift and ShiftDistribution(**shift.model_dump(), values=values),
    )
