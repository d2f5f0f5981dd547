"""One run from start to end: its files, its locks, its steps, and its results.

Every step is made of journaled work units: after Ctrl-C or a crash the same command continues where
it stopped, and ends in the same suite. Knows the order of the steps; each has a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from pydantic import JsonValue

from pytest_divergence.core.behaviours import Behaviour, carried_over, with_accepted
from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import MeasurementError, SettingsError
from pytest_divergence.core.file_names import REPORT
from pytest_divergence.core.provenance import accepted_in
from pytest_divergence.core.redaction import redacted
from pytest_divergence.core.report import Report, RunError, write_report
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import Settings
from pytest_divergence.core.verdicts import check_bound
from pytest_divergence.discovery.behaviours.amplified_phrases import (
    amplified_phrases,
    mirrored_phrase,
)
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.content import content_first
from pytest_divergence.discovery.behaviours.explanations import explained
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis
from pytest_divergence.discovery.behaviours.hypothesis_tests import ConfirmedBehaviour, judge
from pytest_divergence.discovery.behaviours.leads import Leads
from pytest_divergence.discovery.behaviours.long_answers import answered_at_length
from pytest_divergence.discovery.behaviours.natural_prompts import (
    scored_examples,
    with_greedy_answers,
)
from pytest_divergence.discovery.behaviours.power import power_of_tests
from pytest_divergence.discovery.behaviours.surprise import Surprise
from pytest_divergence.discovery.behaviours.training_rows import TrainingRows
from pytest_divergence.discovery.calibration import Calibrated, calibrate
from pytest_divergence.discovery.confirmation import ConfirmedCase, confirm
from pytest_divergence.discovery.contexts.context_effects import standing_out
from pytest_divergence.discovery.contexts.context_leads import ContextLead, leads_under
from pytest_divergence.discovery.contexts.context_tests import (
    ContextFinding,
    confirmed_under,
    context_tests,
)
from pytest_divergence.discovery.cost import Forecast
from pytest_divergence.discovery.engines.base import Engine, Ledger, Spent, Worker, WorkUnit
from pytest_divergence.discovery.engines.in_process import InProcess
from pytest_divergence.discovery.naturalness import Naturalness
from pytest_divergence.discovery.plan import (
    PairFiles,
    RunIdentity,
    SearchPlan,
    identify,
    open_journal,
)
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.results import RunState, build_report, write_suite_files
from pytest_divergence.discovery.rounds import Search
from pytest_divergence.discovery.selection import Selected, select
from pytest_divergence.discovery.soft_prompts.virtual_tokens import artefact_folder
from pytest_divergence.discovery.strategies.built_in import built_in_strategies
from pytest_divergence.discovery.strategies.protocol import Strategy
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.suite_rows import Sizes

TICK_SHARE = 0.1
"""Of the bound: divergences that differ by less are ties, which the more natural prompt wins."""

MakeEngine = Callable[..., Engine]
"""Makes the engine of a `journal` whose units write heavy files to the folder `artefacts`."""
OnReport = Callable[[Report, Path], None]
ModifyCases = Callable[[list[Case]], None]


@dataclass(frozen=True)
class SearchOutcome:
    """Report and files of a finished run."""

    report: Report
    report_dir: Path
    """Folder of report.json, and of what `on_report` put beside it."""
    suite_path: Path
    key: str
    """Digest of all that the results depend on."""
    is_cached: bool
    """Whether nothing had changed since an earlier run, and its results were read back."""


def search(
    settings: Settings,
    *,
    root: Path,
    load_pair: Callable[[], ModelPair],
    listener: Listener,
    engine: MakeEngine | None = None,
    identity: RunIdentity | None = None,
    strategies: Mapping[str, Strategy] | None = None,
    modify_cases: ModifyCases = lambda cases: None,
    on_report: OnReport = lambda report, folder: None,
    is_forced: bool = False,
) -> SearchOutcome:
    """Run the search that the settings describe, or read back what an equal run found.

    `strategies` are the built-in ones unless given. Without an `engine` this process computes, and
    `load_pair` is called when the first work unit needs the models. `on_report` is called once
    report.json is written, also for a run that is interrupted or fails. With `is_forced` nothing
    is read back. Raises `DivergenceError`s, or what interrupted the run.
    """
    identity = identity or identify(settings)
    plan = SearchPlan.of(settings, identity, strategies or built_in_strategies())
    files = PairFiles(root, settings)
    suite = files.folder.suites / files.suite.name  # makes the folder
    with files.locked(listener):
        run_dir = files.folder.new_report_dir(datetime.now().strftime("%Y%m%d-%H%M%S"))
        calibration_path = files.calibration(plan.calibration.key)
        if is_forced:
            plan.forget([calibration_path, files.search])
        with (
            open_journal(calibration_path, plan.calibration.key, listener) as calibrating,
            open_journal(files.search, plan.key, listener) as searching,
        ):
            make = engine or partial(InProcess, load_pair=load_pair, listener=listener)
            made = partial(make, artefacts=artefact_folder(plan.key))
            spent = Spent()
            forecast = Forecast(
                plan.profile,
                settings.budget_seconds,
                spent,
                listener,
                is_parallel=engine is not None,
            )
            ledger = Ledger(made(journal=searching), spent, on_computed=forecast.take)
            steps = Steps(
                settings,
                identity,
                plan,
                ledger,
                ledger.with_engine(made(journal=calibrating)),
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
            is_cached = ledger.spent.num_computed == 0
            return SearchOutcome(report, run_dir, suite, plan.key, is_cached)


@dataclass
class Steps:
    """The steps of one run, and what they have found so far."""

    settings: Settings
    identity: RunIdentity
    plan: SearchPlan
    ledger: Ledger
    calibration_ledger: Ledger
    listener: Listener
    accepted: Sequence[Behaviour]
    """Behaviours that the user knows and accepts."""
    state: RunState = field(default_factory=RunState)
    leads: Leads | None = None
    naturalness: Naturalness = field(init=False)

    def carry_out(self) -> None:
        """Take all steps but writing. Raises `DivergenceError`s, or what interrupts the run."""
        settings, state = self.settings, self.state
        calibrated = self._calibrate()
        controls, profile = [control.answered for control in calibrated.controls], self.plan.profile
        controls = answered_at_length(self.ledger, controls, profile, self.listener)
        mirrored = mirrored_phrase(calibrated.amplified)
        self.leads = leads = Leads(
            self.ledger.spent,
            AnsweredPrompts(controls),
            amplified_phrases(self.ledger, calibrated.amplified, profile, self.listener),
            [amplified.answer for amplified in calibrated.amplified],
            first_named=calibrated.first_lead,
        )
        leads.look()
        texts = [control.text for control in calibrated.controls]
        self.naturalness = Naturalness(self.ledger, texts, calibrated.nlls)
        under = self._look_at_contexts(leads.evidence.controls, calibrated)
        self._search(leads, calibrated.automatic_bound(profile.num_seeds).value)
        decoy = None if mirrored is None else Hypothesis(mirrored.quote, mirrored.motifs)
        told, found = self._judge(leads, decoy, under)
        told += [each.known for each in found]
        self._describe(leads, [known.behaviour for known in told])
        state.bound = calibrated.bound(
            settings.max_kl, self.ledger.spent.prompts_scored, state.behaviours
        )
        state.confirmed = self._confirm(calibrated, [case for each in found for case in each.cases])
        state.behaviours = [self._with_cases(behaviour) for behaviour in state.behaviours]

    def write_suite(self, path: Path, modify_cases: ModifyCases) -> None:
        """Write what was confirmed, once all other steps are taken."""
        state = self.state
        calibrated = state.calibrated
        assert calibrated is not None and state.bound is not None  # noqa: PT018  # set together
        bound = state.bound.value
        cases = [confirmed.case.with_changes(max_kl=bound) for confirmed in state.cases]
        modify_cases(cases)
        floor, metric, dtype = calibrated.noise_floor, self.settings.metric, state.dtype
        for case in cases:  # the same rule for what a hook asks for
            if case.max_kl is not None:
                name = f"case {case.id}: max_kl"
                check_bound(case.max_kl, floor, metric, dtype=dtype, name=name)
        state.exported = {case.id: case for case in cases}
        accepted = accepted_in(path)  # again: a user may accept while a search runs
        state.behaviours = with_accepted(state.behaviours, accepted)
        data = self.plan.training_data
        write_suite_files(
            path,
            state,
            self.settings,
            self.identity,
            self.ledger,
            key=self.plan.key,
            training_data_sha256=None if data is None else data.sha256,
            contexts_sha256=self.plan.contexts.sha256,
            carried=carried_over(state.behaviours, accepted),
        )

    def report(self, folder: Path, *, is_complete: bool) -> Report:
        """Write report.json of what was found so far into a folder, and return it."""
        report = build_report(
            self.state,
            self.settings,
            self.identity,
            self.ledger,
            run_id=folder.name,
            is_complete=is_complete,
            num_unconfirmed=self.plan.profile.num_cases,
        )
        if self.settings.redact:
            report = redacted(report)
        write_report(folder / REPORT, report)
        return report

    def note(self, error: BaseException) -> None:
        """Keep what stopped the run for its report, with the behaviours found so far."""
        if self.leads is not None and not self.state.behaviours:
            self._describe(self.leads, [])
        if isinstance(error, KeyboardInterrupt):
            self.state.reason = "the user interrupted it"
        else:
            message = str(error) or "no reason given"
            self.state.errors.append(RunError(where=type(error).__name__, message=message))

    def _calibrate(self) -> Calibrated:
        settings, state = self.settings, self.state
        facts = self.ledger.result(WorkUnit("pair", _pair_facts))
        state.dtype, state.template_sha256, state.template_arguments = facts
        calibrated = calibrate(
            self.calibration_ledger,
            self.plan.profile,
            self.plan.calibration.controls,
            self.listener,
            metric=settings.metric,
            seed=settings.seed,
        )
        state.calibrated = calibrated
        # The seeds are the fewest prompts that a search scores.
        first = calibrated.bound(settings.max_kl, self.plan.profile.num_seeds)
        state.bound = first.model_copy(update={"provisional": True})
        if settings.max_kl != "auto":
            check_bound(
                settings.max_kl,
                calibrated.noise_floor,
                settings.metric,
                dtype=state.dtype,
                name=setting("max_kl"),
            )
        return calibrated

    def _look_at_contexts(
        self, controls: Sequence[AnsweredPrompt], calibrated: Calibrated
    ) -> list[ContextLead]:
        """Name what the candidate says under the contexts that stand out."""
        profile, contexts = self.plan.profile, self.plan.contexts
        if not contexts.all:
            return []
        texts = [control.prompt for control in controls]
        floor = calibrated.noise_floor.value
        kept = standing_out(self.ledger, contexts, texts, floor, self.listener)
        return leads_under(
            self.ledger, kept, controls, metric=self.settings.metric, length=profile.search_length
        )

    def _search(self, leads: Leads, bound: float) -> None:
        settings, plan, found = self.settings, self.plan, self.state.search
        Search(
            settings,
            plan.profile,
            plan.seeds,
            plan.strategies,
            self.listener,
            leads,
            bound,
        ).run(self.ledger, found)
        if not found.scored and found.errors:
            first = found.errors[0]
            raise MeasurementError(f"no prompt was scored; {first.where}: {first.message}")
        if not found.scored:
            spent, reserved = self.ledger.spent.tokens_forwarded, plan.profile.reserved_tokens
            before = "calibration and contexts" if plan.contexts.all else "calibration"
            raise SettingsError(
                f"a budget of {plan.profile.budget_tokens} forwarded tokens leaves none for the "
                f"search: {before} took {spent}, and {reserved} are reserved to test leads and "
                f"confirm cases; raise {setting('budget')} well above {spent + reserved}"
            )

    def _judge(
        self, leads: Leads, decoy: Hypothesis | None, under: Sequence[ContextLead]
    ) -> tuple[list[ConfirmedBehaviour], list[ContextFinding]]:
        """Test the best leads, and those `under` contexts; return what holds, with all of it."""
        settings, state, profile = self.settings, self.state, self.plan.profile
        surprise = Surprise(self.ledger, leads.evidence.controls)
        tests = context_tests(
            self.ledger,
            under,
            leads.evidence.controls,
            profile,
            self.listener,
            seed=settings.seed,
        )
        judgement = judge(
            self.ledger,
            content_first(leads.ranked, surprise),
            decoy,
            leads.evidence,
            settings,
            profile,
            self.listener,
            num_watched=leads.num_watched,
            further=[test.p_value for test in tests],
        )
        state.first_behaviour = self.ledger.spent.so_far if judgement.confirmed else None
        state.lead_counts, state.power = judgement.counts, power_of_tests(profile, len(tests))
        told = explained(
            self.ledger,
            judgement.confirmed,
            leads.evidence,
            surprise,
            self.naturalness,
            profile,
            self.listener,
            seeds=self.plan.seeds,
            people={*self.plan.seeds, *self.plan.calibration.controls},
            seed=settings.seed,
        )
        found = confirmed_under(
            self.ledger,
            tests,
            judgement.further,
            leads.evidence,
            surprise,
            profile,
            self.listener,
            seed=settings.seed,
        )
        if found:
            state.first_behaviour = state.first_behaviour or self.ledger.spent.so_far
        return told, found

    def _describe(self, leads: Leads, confirmed: Sequence[Behaviour]) -> None:
        state = self.state
        state.behaviours = with_accepted(leads.records(confirmed), self.accepted)
        if (data := self.plan.training_data) is not None:
            rows = TrainingRows(data, leads.evidence.controls)
            state.behaviours = [rows.explain(behaviour) for behaviour in state.behaviours]
        state.first_lead = leads.first_named
        state.differences = leads.differences()

    def _confirm(self, calibrated: Calibrated, under: Sequence[Selected]) -> list[ConfirmedCase]:
        """Measure the best of what was found anew, and the prompts `under` contexts."""
        profile, behaviours = self.plan.profile, self.state.behaviours
        content = [each for each in behaviours if each.confirmed and each.content]
        plain = [each for each in content if each.context is None]
        best, metric = self.state.search.best, self.settings.metric
        natural = scored_examples(
            self.ledger, plain, best, metric=metric, length=profile.search_length
        )
        selected = select(
            self.naturalness,
            best,
            num_cases=profile.num_cases,
            nll_limit=calibrated.nll_limit,
            is_natural_only=self.settings.gate == "natural",
            tick=TICK_SHARE
            * calibrated.automatic_bound(self.ledger.spent.prompts_scored, behaviours).value,
            behaviours=plain,
            natural=natural,
        )
        selected += under
        sizes = Sizes(metric, profile.num_continuations, profile.continuation_length)
        seed = self.settings.seed
        return confirm(self.ledger, selected, sizes, self.listener, seed=seed, behaviours=content)

    def _with_cases(self, behaviour: Behaviour) -> Behaviour:
        """Return the behaviour with the cases whose answers show it."""
        shown = [each.case for each in self.state.cases if each.case.behaviour == behaviour.id]
        return behaviour.model_copy(
            update={
                "example_case_ids": [case.id for case in shown],
                "natural_example": with_greedy_answers(behaviour.natural_example, shown),
            }
        )


def _pair_facts(worker: Worker) -> tuple[str, str | None, dict[str, JsonValue]]:
    """Return the dtype's name, and the digest and the arguments of the chat template."""
    pair = worker.pair
    return pair.dtype_name, pair.chat.template_digest, pair.chat.all_arguments
