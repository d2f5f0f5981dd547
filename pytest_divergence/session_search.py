"""The one search of a session: done here, or read back from where another process did it.

Knows what of pytest a search needs, and who searches among the workers of pytest-xdist. Does not
know when a session searches (`pytest_divergence.participation`), nor how
(`pytest_divergence.discovery.run`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_divergence import progress_display
from pytest_divergence.added import all_strategies, change_cases
from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.failing import usage_errors
from pytest_divergence.pairs import Models, patient_warnings
from pytest_divergence.session import REPORT_KEY

if TYPE_CHECKING:
    from pytest_divergence.core.report import Report
    from pytest_divergence.discovery.cost import Memory
    from pytest_divergence.discovery.progress import Listener
    from pytest_divergence.discovery.run import SearchOutcome
    from pytest_divergence.session import DivergenceSession

LOCK_SECONDS = 24 * 3600.0


def outcome_of(session: DivergenceSession) -> SearchOutcome:
    """Search, or read back what the controller or another worker found."""
    sent = (session.worker_input or {}).get(REPORT_KEY)
    with usage_errors(session):
        if sent:
            outcome = _read_back(Path(sent), session.own_suite)
        elif session.worker_input is not None:
            outcome = _elected(session, str(session.worker_input["testrunuid"]))
        else:
            outcome = _search(session)
    session.report, session.report_dir = outcome.report, outcome.report_dir
    return outcome


def hear(session: DivergenceSession, worker_output: Mapping[str, str]) -> None:
    """Take note of the search of a worker, where the controller did none."""
    from pytest_divergence.core.report import load_report

    if session.report is None and REPORT_KEY in worker_output:
        session.report_dir = Path(worker_output[REPORT_KEY])
        with contextlib.suppress(DivergenceError):  # the tests' own results do not need it
            session.report = load_report(session.report_dir / "report.json")


def _search(session: DivergenceSession) -> SearchOutcome:
    from pytest_divergence.discovery.cost import within_memory
    from pytest_divergence.discovery.run import search

    settings = session.resolved.settings
    with _watched(session) as listener, patient_warnings():
        return search(
            settings,
            root=session.root,
            load_pair=within_memory(session.pair, partial(_memory, session), listener),
            listener=listener,
            identity=session.pairs.run_identity(Models(*session.models)),
            strategies=all_strategies(session.config),
            modify_cases=partial(change_cases, session.config),
            on_report=partial(_keep_report, session),
            is_forced=settings.mode == "search",
        )


@contextmanager
def _watched(session: DivergenceSession) -> Iterator[Listener]:
    """The display of a search, on which the session too says what it has to say."""
    with progress_display.shown(session.config) as listener:
        say, session.say = session.say, listener.say
        try:
            yield listener
        except KeyboardInterrupt:
            if session.is_controller and session.report_dir is not None:  # there is no summary
                listener.say(
                    f"stopped; what was found so far is in {session.shown(session.report_dir)}, "
                    "and the same command goes on from there"
                )
            raise
        finally:
            session.say = say


def _memory(session: DivergenceSession) -> Memory | None:
    """What a search takes; None where its models are in memory, or of unknown size."""
    models = Models(*session.models)
    return None if session.pairs.is_loaded(models) else session.pairs.memory(models)


def _keep_report(session: DivergenceSession, report: Report, folder: Path) -> None:
    from pytest_divergence.reports import write_reports

    session.report, session.report_dir = report, folder
    write_reports(report, folder, suite=session.shown(session.own_suite))
    session.config.hook.pytest_divergence_report(config=session.config, report=report)


def _elected(session: DivergenceSession, run: str) -> SearchOutcome:
    """The first worker that needs it searches; the others wait, and read its results."""
    from pytest_divergence.core.store import file_lock, write_atomically

    journal = session.folder.journal
    stamp = journal / "last-search.json"
    with file_lock(
        journal / "last-search.lock",
        timeout=LOCK_SECONDS,
        on_wait=lambda _: session.say("another worker searches; waiting for it"),
    ):
        last = json.loads(stamp.read_text("utf-8")) if stamp.is_file() else {}
        if last.get("run") == run and last["error"]:
            raise pytest.UsageError(last["error"])
        if last.get("run") == run:
            return _read_back(Path(last["report_dir"]), session.own_suite)
        done: dict[str, str | None] = {"run": run, "error": None, "report_dir": None}
        try:
            with usage_errors(session):
                outcome = _search(session)
            done["report_dir"] = str(outcome.report_dir)
            return outcome
        except pytest.UsageError as error:
            done["error"] = str(error)
            raise
        finally:
            if done["error"] or done["report_dir"]:
                write_atomically(stamp, json.dumps(done))


def _read_back(report_dir: Path, suite: Path) -> SearchOutcome:
    """What a search of another process left behind."""
    from pytest_divergence.core.provenance import load_provenance
    from pytest_divergence.core.report import load_report
    from pytest_divergence.core.suites import sidecar_path
    from pytest_divergence.discovery.run import SearchOutcome

    return SearchOutcome(
        report=load_report(report_dir / "report.json"),
        report_dir=report_dir,
        suite_path=suite,
        key=load_provenance(sidecar_path(suite, "provenance.json")).key,
        is_cached=True,
    )
