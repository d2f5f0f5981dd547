"""The one search of a session: done here, or read back from another process.

Knows what a search needs from pytest, which worker of pytest-xdist searches, and which suites there
are to replay instead. Does not know how a search works (`pytest_divergence.discovery.run`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import pytest

from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.file_names import PROVENANCE, REPORT, is_suite, sidecar_path
from pytest_divergence.core.files import DivergenceFolder, file_lock, write_atomically
from pytest_divergence.core.provenance import load_provenance
from pytest_divergence.core.regular_files import read_regular_text
from pytest_divergence.core.report import Report, load_report
from pytest_divergence.core.suites import read_suite
from pytest_divergence.discovery.cost import Memory, within_memory
from pytest_divergence.discovery.engines.ray import RayEngine
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.run import SearchOutcome, search
from pytest_divergence.discovery.strategies.built_in import built_in_strategies
from pytest_divergence.discovery.strategies.protocol import Strategy
from pytest_divergence.plugin.bounds import refuse_shift, suite_bounds
from pytest_divergence.plugin.collection import nothing_to_replay
from pytest_divergence.plugin.extensions import change_cases, merged
from pytest_divergence.plugin.loaded_pairs import patient_warnings
from pytest_divergence.plugin.model_pairs import refuse_served
from pytest_divergence.plugin.progress_bar import search_progress
from pytest_divergence.plugin.session import DivergenceSession
from pytest_divergence.plugin.usage_errors import shown_settings, usage_errors
from pytest_divergence.plugin.workers import workers_of
from pytest_divergence.reports.headline import continuation
from pytest_divergence.reports.report_files import write_reports

LOCK_SECONDS = 24 * 3600.0


def outcome_of(session: DivergenceSession) -> SearchOutcome:
    """Search, or read back what the controller or another worker found."""
    told = session.told
    with usage_errors(session):
        if told is None:
            outcome = _search(session)
        elif told.report_dir is not None:
            outcome = _read_back(told.report_dir, session.own_suite)
        else:
            outcome = _elected(session, told.run)
    session.report, session.report_dir = outcome.report, outcome.report_dir
    return outcome


def read_report(session: DivergenceSession, report_dir: Path) -> None:
    """Take over the report of a worker's search, if the controller did not search."""
    session.report_dir = report_dir
    with contextlib.suppress(DivergenceError):  # the tests' own results do not need it
        session.report = load_report(report_dir / REPORT)


def _search(session: DivergenceSession) -> SearchOutcome:
    settings = session.resolved.settings
    refuse_served(session.models, session.config, "a search", takes_heads=True)
    with (
        _watched(session) as listener,
        patient_warnings(),
        workers_of(session, listener) as pool,
    ):
        pairs, models = session.pairs, session.models
        return search(
            settings,
            root=session.root,
            load_pair=within_memory(session.pair, partial(_memory, session), listener),
            engine=None if pool is None else partial(RayEngine, pool),
            listener=listener,
            identity=pairs.run_identity(models)
            if pool is None
            else pairs.take_over(models, pool.identity),
            strategies=_all_strategies(session.config),
            modify_cases=partial(change_cases, session.config),
            on_report=partial(_keep_report, session),
            # No server proves that it still runs what an earlier search has seen.
            is_forced=settings.mode == "search" or session.models.is_partial,
        )


@contextmanager
def _watched(session: DivergenceSession) -> Iterator[Listener]:
    """Show the progress of a search, and the session's own messages with it."""
    with search_progress(session.config) as listener:
        say, session.say = session.say, listener.say
        try:
            yield listener
        except KeyboardInterrupt:
            has_no_summary = session.plan.process == "controller"
            if has_no_summary and session.report_dir is not None:
                listener.say(
                    f"stopped; the results so far are in {session.shown(session.report_dir)}; "
                    + continuation(session.resolved.settings.mode)
                )
            raise
        finally:
            session.say = say


def _all_strategies(config: pytest.Config) -> Mapping[str, Strategy]:
    """Return the built-in strategies and those that other plugins add."""
    built_in = built_in_strategies()
    found: Mapping[str, Strategy] = merged(
        config, "pytest_divergence_strategies", built_in, "strategy"
    )
    return found


def _memory(session: DivergenceSession) -> Memory | None:
    """Return the memory that a search needs; None if its models are loaded, or of unknown size."""
    pairs, models = session.pairs, session.models
    return None if pairs.is_loaded(models) else pairs.memory(models)


def _keep_report(session: DivergenceSession, report: Report, folder: Path) -> None:
    session.report, session.report_dir = report, folder
    suite, given = session.shown(session.own_suite), shown_settings(session)
    write_reports(report, folder, suite=suite, given=given)
    session.config.hook.pytest_divergence_report(config=session.config, report=report)


def _elected(session: DivergenceSession, run: str) -> SearchOutcome:
    """Search in the first worker that needs it; the others wait, and read its results."""
    journal = DivergenceFolder(session.root).journal
    stamp = journal / "last-search.json"
    with file_lock(
        journal / "last-search.lock",
        timeout=LOCK_SECONDS,
        on_wait=lambda _: session.say("another worker is searching; waiting for it"),
    ):
        last = json.loads(read_regular_text(stamp)) if stamp.is_file() else {}
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
    """Return the outcome of another process's search."""
    return SearchOutcome(
        report=load_report(report_dir / REPORT),
        report_dir=report_dir,
        suite_path=suite,
        key=load_provenance(sidecar_path(suite, PROVENANCE)).key,
        is_cached=True,
    )


def prepare(session: DivergenceSession) -> None:
    """Search before collection, or make sure that there is a suite to replay.

    Does nothing if only a path or the ini file may ask for the models: collection will show that.
    """
    plan = session.plan
    if plan.acts_first:
        session.is_used = True
        if plan.action == "search":
            session.outcome()
        elif plan.adds_own_suite:
            _require_suite(session)
    if plan.process == "controller":
        _validate_suites(session)


def _suites_below(session: DivergenceSession) -> Iterator[Path]:
    """Yield every suite that pytest would find from the session's arguments."""
    hidden = session.config.getini("norecursedirs")
    for path in session.arguments:
        if path.is_file() and is_suite(path):
            yield path
        for folder, below, files in os.walk(path):
            below[:] = [name for name in below if not any(fnmatch(name, glob) for glob in hidden)]
            yield from (Path(folder, file) for file in files if is_suite(file))


def _require_suite(session: DivergenceSession) -> None:
    if not session.own_suite.is_file() and not any(_suites_below(session)):
        raise nothing_to_replay(session)


def _validate_suites(session: DivergenceSession) -> None:
    """Check the named suites in the controller: workers cannot end a session with one clear error.

    Which others take part is known only to pytest's collection, in the workers.
    """
    with usage_errors(session):
        for path in session.plan.suites:
            stored, models = read_suite(path), session.models_for(path)
            if models is not None and models.is_text_only:
                refuse_shift(session, path)
            else:
                suite_bounds(session, path, stored)
            if models is not None and not session.outcome:
                session.pairs.check(models)
