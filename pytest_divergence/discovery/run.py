"""One run from start to end: its files, its locks, who does its work, and what it leaves behind.

Every step (`pytest_divergence.discovery.steps`) is made of journaled work units: after Ctrl-C or a
crash the same command goes on where it was, and ends in the same suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pytest_divergence.core.accepting import accepted_in
from pytest_divergence.core.report import Report
from pytest_divergence.core.settings import Settings
from pytest_divergence.core.store import sweep_strays
from pytest_divergence.discovery.executors import InProcess
from pytest_divergence.discovery.forecast import Forecast
from pytest_divergence.discovery.identity import RunIdentity, identify, identify_pair
from pytest_divergence.discovery.pair_files import PairFiles, opened
from pytest_divergence.discovery.planning import SearchPlan
from pytest_divergence.discovery.progress import Listener, Silence
from pytest_divergence.discovery.steps import ModifyCases, Steps
from pytest_divergence.discovery.strategies import Strategy, built_in_strategies
from pytest_divergence.discovery.units import Spent, WorkUnits
from pytest_divergence.models.pair import ModelPair

OnReport = Callable[[Report, Path], None]


@dataclass(frozen=True)
class SearchOutcome:
    """What a finished run left behind."""

    report: Report
    report_dir: Path
    """Holds report.json, and what `on_report` put beside it."""
    suite_path: Path
    key: str
    """Digest of all that the results depend on."""
    is_cached: bool
    """Nothing had changed since an earlier run: its results were read back."""


def discover(
    pair: ModelPair, settings: Settings | None = None, *, root: Path | None = None
) -> SearchOutcome:
    """Search a pair that is in memory; files go under `root` (default: the working directory).

    Raises what `search` raises.
    """
    settings = settings or Settings()
    named = settings.model_copy(
        update={
            "model_1": settings.model_1 or pair.reference_identity.spec,
            "model_2": settings.model_2 or pair.candidate_identity.spec,
        }
    )
    return search(
        named,
        root=root or Path.cwd(),
        load_pair=lambda: pair,
        listener=Silence(),
        identity=identify_pair(pair).with_metric(pair.metrics.get(named.metric)),
    )


def search(
    settings: Settings,
    *,
    root: Path,
    load_pair: Callable[[], ModelPair],
    listener: Listener,
    identity: RunIdentity | None = None,
    strategies: Mapping[str, Strategy] | None = None,
    modify_cases: ModifyCases = lambda cases: None,
    on_report: OnReport = lambda report, folder: None,
    is_forced: bool = False,
) -> SearchOutcome:
    """Run the search that the settings describe, or read back what an equal run found.

    `strategies` are the built-in ones unless given. `load_pair` is called when the first work unit
    needs the models. `on_report` is called once report.json is written, also for a run that is
    interrupted or fails. With `is_forced` nothing is read back. Raises `DivergenceError`s, or what
    interrupted the run.
    """
    identity = identity or identify(settings)
    plan = SearchPlan.of(settings, identity, strategies or built_in_strategies())
    files = PairFiles(root, settings)
    suite = files.suite
    run_dir = files.folder.new_report_dir(datetime.now().strftime("%Y%m%d-%H%M%S"))
    sweep_strays(files.folder.suites)
    with files.locked(listener):
        calibration_path = files.calibration(plan.calibration.key)
        if is_forced:
            plan.forget([calibration_path, files.search])
        with (
            opened(calibration_path, plan.calibration.key, listener) as calibrating,
            opened(files.search, plan.key, listener, about=plan.about) as searching,
        ):
            spent = Spent()
            forecast = Forecast(plan.profile, settings.budget_seconds, spent, listener)
            units = WorkUnits(InProcess(searching, load_pair), spent, on_computed=forecast.take)
            steps = Steps(
                settings,
                identity,
                plan,
                units,
                units.done_by(InProcess(calibrating, load_pair)),
                listener,
                accepted_in(suite),
            )
            try:
                steps.carry_out()
                steps.write_suite(suite, modify_cases)
                report = steps.report(run_dir, is_complete=True)
            except BaseException as error:
                steps.note(error)
                on_report(steps.report(run_dir, is_complete=False), run_dir)
                raise
            on_report(report, run_dir)
            is_cached = units.spent.num_computed == 0
            return SearchOutcome(report, run_dir, suite, plan.key, is_cached)
