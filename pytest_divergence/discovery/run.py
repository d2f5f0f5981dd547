"""One run from start to end: calibrate, search, select, confirm, write.

Every step is made of journaled work units: after Ctrl-C or a crash the same command goes on where
it was, and ends in the same suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from pytest_divergence.core.accepting import accepted_in, with_accepted
from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.bounds import refusal
from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import MeasurementError, SettingsError
from pytest_divergence.core.redacting import redacted
from pytest_divergence.core.report import Report, RunError, write_report
from pytest_divergence.core.settings import Settings
from pytest_divergence.core.store import sweep_strays
from pytest_divergence.discovery.behaviours import behaviour_shows, shows
from pytest_divergence.discovery.calibrating import Calibrated, Control, calibrate
from pytest_divergence.discovery.causes import add_causes
from pytest_divergence.discovery.confirming import confirm
from pytest_divergence.discovery.evidence import Evidence
from pytest_divergence.discovery.identity import (
    RunIdentity,
    identify,
    identify_pair,
)
from pytest_divergence.discovery.naming import foresee_hints, hints
from pytest_divergence.discovery.outcome import Findings, build_report, write_suite_files
from pytest_divergence.discovery.pair_files import PairFiles
from pytest_divergence.discovery.phrases import Phrase
from pytest_divergence.discovery.planning import SearchPlan
from pytest_divergence.discovery.progress import Forecast, Listener, Silence
from pytest_divergence.discovery.searching import Search
from pytest_divergence.discovery.selection import select
from pytest_divergence.discovery.sharding import (
    Awaited,
    AwaitedUnitsError,
    executor_of,
    in_full,
    unite,
)
from pytest_divergence.discovery.soft_prompts import artefact_folder
from pytest_divergence.discovery.strategies import Strategy, built_in_strategies
from pytest_divergence.discovery.testing import Behaviours
from pytest_divergence.discovery.units import Spent, WorkUnits
from pytest_divergence.models.pair import ModelPair

TICK_SHARE = 0.1
"""Of the bound: divergences that differ by less are ties, which the more natural prompt wins."""
OnReport = Callable[[Report, Path], None]
ModifyCases = Callable[[list[Case]], None]


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
    awaited: Awaited | None = None
    """What this shard of a search waits for: then the report is incomplete, and there is no suite
    of it yet."""


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
    interrupted or fails. With `is_forced` nothing is read back, unless the run is one shard of
    several: then it goes on with what all of them have done. Raises `DivergenceError`s, or what
    interrupted the run.
    """
    identity = identity or identify(settings)
    shard = settings.own_shard
    plan = SearchPlan.of(settings, identity, strategies or built_in_strategies())
    files = PairFiles(root, settings)
    suite = files.suite
    run_dir = files.folder.new_report_dir(datetime.now().strftime("%Y%m%d-%H%M%S"))
    sweep_strays(files.folder.suites)
    with files.locked(listener, shard):
        calibration_path = files.calibration(plan.calibration.key)
        journals = {calibration_path: plan.calibration.key, files.search: plan.key}
        if is_forced and shard is None:
            plan.forget(journals)
        executor = partial(executor_of, settings=settings, load_pair=load_pair, listener=listener)
        with (
            executor(calibration_path, plan.calibration.key) as calibrating,
            executor(files.search, plan.key, about=plan.about) as searching,
        ):
            spent = Spent()
            forecast = Forecast(plan.profile, settings.budget_seconds, spent, listener)
            units = WorkUnits(searching, spent, on_computed=forecast.take)
            run = _Run(
                settings,
                identity,
                plan,
                units,
                units.done_by(calibrating),
                listener,
                accepted_in(suite),
            )
            try:
                run.carry_out()
                with nullcontext() if shard is None else files.locked(listener):
                    for path, key in journals.items() if shard is not None else ():
                        unite(path, key)
                    run.write_suite(suite, modify_cases)
                report, awaited = run.report(run_dir, is_complete=True), None
            except AwaitedUnitsError as error:
                awaited = in_full(error.awaited, list(journals), plan.key, plan.about)
                run.note(AwaitedUnitsError(awaited))
                report = run.report(run_dir, is_complete=False)
            except BaseException as error:
                run.note(error)
                on_report(run.report(run_dir, is_complete=False), run_dir)
                raise
            on_report(report, run_dir)
            is_cached = awaited is None and units.spent.num_computed == 0
            return SearchOutcome(report, run_dir, suite, plan.key, is_cached, awaited)


class _Run:
    """The steps of one run, and what they have found so far."""

    def __init__(
        self,
        settings: Settings,
        identity: RunIdentity,
        plan: SearchPlan,
        units: WorkUnits,
        calibration_units: WorkUnits,
        listener: Listener,
        accepted: Sequence[Behaviour],
    ) -> None:
        self.accepted = accepted
        self.settings = settings
        self.identity = identity
        self.plan = plan
        self.units = units
        self.calibration_units = calibration_units
        self.listener = listener
        self.findings = Findings()
        self.behaviours: Behaviours | None = None

    def carry_out(self) -> None:
        settings, plan, findings = self.settings, self.plan, self.findings
        about = self.units.do(
            "pair",
            lambda pair: [str(pair.dtype).split(".")[-1], pair.chat.template_digest],
            is_common=True,
        )
        findings.dtype, findings.template_sha256 = about
        calibrated = calibrate(
            self.calibration_units,
            settings,
            plan.profile,
            plan.calibration.controls,
            self.listener,
            on_controls=self._foresee_hints,
        )
        findings.calibrated = calibrated
        findings.bound = calibrated.bound(settings).model_copy(update={"provisional": True})
        self._refuse_noise(settings.max_kl, "--divergence-max-kl")
        self.behaviours = Behaviours(
            self.units,
            settings,
            plan.profile,
            self.listener,
            Evidence(one.answered for one in calibrated.controls),
            self._hints(calibrated),
        )
        self.behaviours.look()
        self._search(self.behaviours, calibrated.automatic_bound().value)
        self.behaviours.finish()
        self.behaviours.confirmed = add_causes(
            self.units, self.behaviours.confirmed, plan.profile, self.listener
        )
        self._describe(self.behaviours)
        findings.bound = calibrated.bound(settings, self._is_ordinary)
        selected = select(
            self.units,
            findings.search.best,
            num_cases=plan.profile.num_cases,
            nll_limit=calibrated.nll_limit,
            is_natural_only=settings.gate == "natural",
            tick=TICK_SHARE * calibrated.automatic_bound(self._is_ordinary).value,
            behaviour_of=lambda one: self._behaviour_of(
                one.proposal.text, one.candidate.text, one.reference
            ),
        )
        findings.confirmed = confirm(
            self.units,
            selected,
            settings,
            plan.profile,
            self.listener,
            behaviour_of=self._behaviour_of,
        )
        findings.behaviours = [self._with_cases(one) for one in findings.behaviours]

    def _describe(self, behaviours: Behaviours) -> None:
        findings = self.findings
        findings.behaviours = with_accepted(behaviours.records(), self.accepted)
        findings.first_found = behaviours.first_found
        findings.differences = behaviours.differences()

    def _with_cases(self, behaviour: Behaviour) -> Behaviour:
        """The behaviour with the cases whose answers show it."""
        cases = [one.case for one in self.findings.cases]
        shown = [case.id for case in cases if case.behaviour == behaviour.id]
        return behaviour.model_copy(update={"example_case_ids": shown})

    def _foresee_hints(self, controls: Sequence[Control]) -> None:
        if not self.identity.is_same_model:
            foresee_hints(self.units, [one.answered for one in controls], self.plan.profile)

    def _hints(self, calibrated: Calibrated) -> list[Phrase]:
        if self.identity.is_same_model:  # there is nothing to amplify
            return []
        controls = [one.answered for one in calibrated.controls]
        return hints(self.units, controls, self.plan.profile, self.listener)

    def _search(self, behaviours: Behaviours, bound: float) -> None:
        settings, plan, found = self.settings, self.plan, self.findings.search
        Search(
            settings,
            plan.profile,
            plan.seeds,
            plan.strategies,
            artefact_folder(plan.key),
            self.listener,
            behaviours,
            bound,
        ).run(self.units, found)
        if not found.scored and found.errors:
            first = found.errors[0]
            raise MeasurementError(f"no prompt was scored; {first.where}: {first.message}")
        if not found.scored:
            profile = plan.profile
            raise SettingsError(
                f"the budget of {profile.budget_tokens} forwarded tokens leaves nothing to search "
                f"with: {self.units.spent.tokens_forwarded} were spent on calibration, and "
                f"{profile.reserved_tokens} are kept to confirm what is found; raise "
                "--divergence-budget or choose a smaller profile"
            )

    @property
    def _conditional(self) -> list[Behaviour]:
        return [
            one for one in self.findings.behaviours if one.confirmed and one.kind == "conditional"
        ]

    def _behaviour_of(self, prompt: str, own: str, other: str) -> str | None:
        """The id of the confirmed conditional behaviour that an answer shows."""
        return next(
            (
                one.id
                for one in self._conditional
                if shows(one.motifs, one.trait, prompt, own, other)
            ),
            None,
        )

    def _is_ordinary(self, control: Control) -> bool:
        """Controls that show a confirmed conditional behaviour do not count for the bound."""
        return not any(behaviour_shows(one, control.answered) for one in self._conditional)

    def write_suite(self, path: Path, modify_cases: ModifyCases) -> None:
        findings = self.findings
        assert findings.bound is not None  # `carry_out` has set it
        cases = [one.case.with_changes(max_kl=findings.bound.value) for one in findings.cases]
        modify_cases(cases)
        for case in cases:  # what a hook asks for is held to the same rule
            self._refuse_noise(case.max_kl, f"case {case.id}: max_kl")
        findings.exported = {case.id: case for case in cases}
        write_suite_files(
            path, findings, self.settings, self.identity, self.units, key=self.plan.key
        )

    def _refuse_noise(self, max_kl: float | str | None, name: str) -> None:
        """Raise `SettingsError` for a bound given as a number that the noise alone could break."""
        calibrated = self.findings.calibrated
        if calibrated is None or not isinstance(max_kl, float):
            return
        floor = calibrated.noise_floor.value
        if reason := refusal(max_kl, floor, name=name, dtype=self.findings.dtype):
            raise SettingsError(reason)

    def report(self, folder: Path, *, is_complete: bool) -> Report:
        report = build_report(
            self.findings,
            self.settings,
            self.identity,
            self.units,
            run_id=folder.name,
            is_complete=is_complete,
            num_unconfirmed=self.plan.profile.num_cases,
        )
        if self.settings.redact:
            report = redacted(report)
        write_report(folder / "report.json", report)
        return report

    def note(self, error: BaseException) -> None:
        name = "interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        if isinstance(error, AwaitedUnitsError):
            name = f"shard {error.awaited.shard}"
        message = str(error) or "stopped by the user"
        if self.behaviours is not None and not self.findings.behaviours:
            self._describe(self.behaviours)
        self.findings.errors.append(RunError(where=name, message=message))
