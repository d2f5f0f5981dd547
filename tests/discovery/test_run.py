"""A whole run on a tiny pair: what it leaves, and that it ends the same however often it stops."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core import settings as settings_module
from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import (
    MeasurementError,
    ModelLoadError,
    SettingsError,
    StoreError,
    SuiteError,
)
from pytest_divergence.core.file_names import sidecar_path
from pytest_divergence.core.files import latest_report_dir
from pytest_divergence.core.provenance import load_provenance
from pytest_divergence.core.report import Report, load_report
from pytest_divergence.core.settings import Profile, Settings
from pytest_divergence.core.suites import load_suite
from pytest_divergence.core.tokens import load_tokens
from pytest_divergence.discovery.behaviours.power import power_of_tests
from pytest_divergence.discovery.plan import PairFiles
from pytest_divergence.discovery.progress import ProgressLine, Silence
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.run import SearchOutcome, search
from pytest_divergence.discovery.strategies.built_in import built_in_strategies
from pytest_divergence.discovery.strategies.protocol import SearchContext
from pytest_divergence.models.fingerprints import text_digest
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.notebook import discover
from pytest_divergence.scoring.continuations import greedy_continuations
from tests.models_in_memory import tiny_pair
from tests.replaying import replay_case
from tests.tiny import CHATML

PROFILE = Profile(
    name="smoke",
    num_shipped_controls=8,
    num_written_controls=2,
    num_naming_prompts=8,
    naming_length=5,
    num_behaviour_prompts=6,
    num_tested_leads=2,
    num_seeds=8,
    num_cases=2,
    num_continuations=2,
    continuation_length=4,
    search_length=3,
    prompt_length=6,
    num_restarts=2,
    num_virtual_tokens=2,
    num_steps=4,
    batch_size=2,
    max_text_tokens=64,
    num_elite=4,
    num_proposals=4,
    full_score_share=0.5,
    budget_tokens=10**9,
)


STRICT = 1e-5
"""Nats per token: above the noise of a tiny model in float32, and below any real difference."""


@pytest.fixture(autouse=True)
def _tiny_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings_module.PROFILES, "smoke", PROFILE)


@pytest.fixture(scope="module")
def pair(tiny_models: Path) -> ModelPair:
    return load_model_pair(str(tiny_models / "base"), str(tiny_models / "ft"))


class Bench:
    """Runs searches of one pair, each root with a cache of its own."""

    def __init__(self, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models = models
        self.monkeypatch = monkeypatch
        self.num_loads = 0
        self.reports: list[tuple[Report, Path]] = []

    def settings(self, **changes: Any) -> Settings:
        named = {"model_1": str(self.models / "base"), "model_2": str(self.models / "ft")}
        return Settings(**{**named, "profile": "smoke", "gate": "all", **changes})

    def __call__(
        self, root: Path, pair: ModelPair, *, settings: Settings | None = None, **options: Any
    ) -> SearchOutcome:
        def load() -> ModelPair:
            self.num_loads += 1
            return pair

        self.monkeypatch.setenv("PYTEST_DIVERGENCE_CACHE", str(root / "cache"))
        return search(
            settings or self.settings(),
            root=root,
            load_pair=options.pop("load_pair", load),
            listener=options.pop("listener", Silence()),
            on_report=lambda report, folder: self.reports.append((report, folder)),
            **options,
        )


@pytest.fixture
def bench(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tiny_models, monkeypatch)


@pytest.fixture(scope="module")
def found(
    tiny_models: Path, pair: ModelPair, tmp_path_factory: pytest.TempPathFactory
) -> SearchOutcome:
    """One unbroken run, read by many tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(settings_module.PROFILES, "smoke", PROFILE)
        return Bench(tiny_models, patch)(tmp_path_factory.mktemp("unbroken"), pair)


@pytest.fixture
def root(found: SearchOutcome, tmp_path: Path) -> Path:
    """The folder of the unbroken run, a test's own to go on in."""
    unbroken = found.suite_path.parents[2]
    return Path(shutil.copytree(unbroken, tmp_path / "root", symlinks=True))


def no_models() -> ModelPair:
    raise ModelLoadError("the models are asked for")


def test_a_run_leaves_suite_tokens_provenance_and_report(found: SearchOutcome) -> None:
    suite = load_suite(found.suite_path)
    tokens = load_tokens(sidecar_path(found.suite_path, "tokens.jsonl"))
    provenance = load_provenance(sidecar_path(found.suite_path, "provenance.json"))

    assert (provenance.dtype, provenance.device) == ("float32", "cpu")
    assert provenance.template_sha256 == text_digest(CHATML)
    assert provenance.template_arguments == {"date_string": "01 Jan 2026"}
    assert provenance.settings["metric"] == "symmetric"
    assert {"torch", "transformers", "pytest-divergence"} <= set(provenance.versions)
    assert len(suite.cases) == PROFILE.num_cases
    assert set(tokens) == {case.id for case in suite.rows}
    assert provenance.key == found.key
    assert provenance.reference.weights_sha256 != provenance.candidate.weights_sha256
    assert load_report(found.report_dir / "report.json") == found.report
    assert found.report.run.status == "complete"
    assert not found.report.errors
    assert not found.is_cached


def test_a_suite_carries_control_rows_and_the_bound_of_the_calibration(
    found: SearchOutcome,
) -> None:
    suite = load_suite(found.suite_path)
    tokens = load_tokens(sidecar_path(found.suite_path, "tokens.jsonl"))
    calibration = found.report.calibration
    shift, floor, bound = calibration.typical_shift, calibration.noise_floor, calibration.bound

    assert shift is not None
    assert 8 < shift.num_controls == len(shift.values) <= 10, "shipped and written ones"
    assert len(suite.controls) == shift.num_controls
    assert {row.id for row in suite.controls} <= set(tokens)
    assert {row.kl.value for row in suite.controls if row.kl} <= set(shift.values)
    assert not any(row.max_kl for row in suite.controls)
    assert floor is not None
    assert 0 < floor.value < 1e-3
    assert bound is not None
    assert bound.value == max(bound.parts.values())
    assert {case.max_kl for case in (*suite.cases, *found.report.cases)} == {bound.value}


def test_another_search_of_the_pair_shares_its_calibration(
    bench: Bench, pair: ModelPair, root: Path
) -> None:
    """Other strategies change what is found, not what ordinary prompts read."""
    seeds_only = {"seeds": built_in_strategies()["seeds"]}
    before = pair.tokens_forwarded
    other = bench(root, pair, strategies=seeds_only)
    spent = pair.tokens_forwarded - before

    assert 0 < spent < other.report.effort.tokens_forwarded


def test_every_strategy_is_in_the_report(found: SearchOutcome) -> None:
    report = found.report

    assert [one.name for one in report.strategies] == [
        "seeds",
        "probe",
        "soft_prompt",
        "self_prompt",
        "amplified",
    ]
    probe, *others = (one for one in report.strategies if one.name != "seeds")
    assert probe.num_proposals == 0  # no phrase is suspected of models that only babble
    assert all(one.num_proposals >= one.num_scored > 0 for one in others)
    assert sum(one.num_selected for one in report.strategies) == PROFILE.num_cases
    assert [one.name for one in report.training] == ["restart-1-free", "restart-2-elite"]
    assert len(report.training[0].loss) == PROFILE.num_steps
    assert report.training[0].d_soft is not None
    assert all(one.d_hard is not None for one in report.training)
    assert report.effort.prompts_scored == sum(one.num_proposals for one in report.strategies)
    values = [point.best_kl for point in report.search_curve]
    assert values == sorted(values), "the curve never falls"
    best = max(case.origin.search_kl or 0 for case in report.cases if case.origin)
    assert values[-1] >= best
    leads = report.leads
    assert leads is not None
    assert 0 < leads.tested <= PROFILE.num_tested_leads + 1
    assert leads.watched >= leads.tested - 1
    assert report.power == power_of_tests(PROFILE)


def test_the_effort_is_counted_by_kind_of_work(found: SearchOutcome) -> None:
    effort = found.report.effort
    kinds = effort.tokens_by_kind

    assert kinds is not None
    assert sum(kinds.values()) == effort.tokens_forwarded
    assert min(kinds.values()) > 0
    assert list(kinds)[:2] == [
        "written controls",
        "controls, amplified answers to them, and noise",
    ]
    assert {"test of the decoy", "cases"} <= set(kinds)  # no phrase recurs in what they babble
    searched = {
        f"search: {one.name}": one.tokens_forwarded
        for one in found.report.strategies
        if one.tokens_forwarded
    }
    assert searched == {kind: kinds[kind] for kind in kinds if kind.startswith("search: ")}


def test_a_search_whose_seconds_are_over_is_judged_all_the_same(
    bench: Bench, pair: ModelPair, tmp_path: Path
) -> None:
    """The clock ends the rounds of the search, and nothing else."""
    outcome = bench(tmp_path, pair, settings=bench.settings(budget="1s"))

    assert outcome.report.run.status == "complete"
    assert outcome.report.leads is not None
    assert outcome.report.leads.tested > 0


def test_confirmation_uses_other_continuations_than_the_search(
    found: SearchOutcome, pair: ModelPair
) -> None:
    tokens = load_tokens(sidecar_path(found.suite_path, "tokens.jsonl"))
    for case in load_suite(found.suite_path).cases:
        assert case.origin is not None
        assert case.kl is not None
        seen = greedy_continuations(pair, [case.text], max_new_tokens=PROFILE.search_length)[0]
        stored = tokens[case.id]
        assert list(seen.reference[0]) not in [ids[:3] for ids in stored.reference]
        assert case.kl.value != case.origin.search_kl
        assert case.kl.num_continuations == PROFILE.num_continuations
        assert case.kl.estimator == "fresh"


def test_the_written_suite_replays_to_its_own_values(found: SearchOutcome, pair: ModelPair) -> None:
    tokens = load_tokens(sidecar_path(found.suite_path, "tokens.jsonl"))
    sizes: Any = {"metric": "symmetric", "num_continuations": 1, "max_new_tokens": 1, "seed": 5}
    for case in load_suite(found.suite_path).cases:
        again = replay_case(pair, case, tokens[case.id], **sizes)

        assert case.kl is not None
        assert again.measurement.value == pytest.approx(case.kl.value, abs=1e-6)
        assert again.measurement.sd == pytest.approx(case.kl.sd, abs=1e-5)

    changed = pair.with_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(MeasurementError, match="token ids differ from the stored ones"):
        replay_case(changed, case, tokens[case.id], **sizes)


def test_the_same_run_twice_is_read_back_without_loading_a_model_unless_forced(
    bench: Bench, found: SearchOutcome, pair: ModelPair, root: Path
) -> None:
    """Another limit needs no other search either."""
    again = bench(root, pair, load_pair=no_models)

    assert again.is_cached
    assert again.suite_path.read_bytes() == found.suite_path.read_bytes()
    assert again.report_dir.name != found.report_dir.name
    assert again.report.cases == found.report.cases
    assert again.report.effort == found.report.effort

    strict = bench(root, pair, settings=bench.settings(max_kl=STRICT), load_pair=no_models)
    assert strict.is_cached
    assert {case.max_kl for case in load_suite(strict.suite_path).cases} == {STRICT}
    assert strict.report.verdict_counts == {"failed": PROFILE.num_cases}

    forced = bench(root, pair, is_forced=True)
    assert not forced.is_cached
    assert forced.suite_path.read_bytes() == found.suite_path.read_bytes()


def test_a_limit_inside_the_noise_stops_the_run_and_loses_nothing(
    bench: Bench, found: SearchOutcome, pair: ModelPair, root: Path
) -> None:
    noise_floor = found.report.calibration.noise_floor
    assert noise_floor is not None
    limit = 2 * noise_floor.value

    with pytest.raises(SettingsError, match="is within the noise") as caught:
        bench(root, pair, settings=bench.settings(max_kl=limit), load_pair=no_models)

    assert f"--divergence-max-kl={limit:g} is within the noise" in str(caught.value)
    report, _ = bench.reports[-1]
    assert report.run.status == "incomplete"
    assert [one.where for one in report.errors] == ["SettingsError"]
    assert report.calibration.noise_floor == noise_floor
    (suite,) = root.glob(".divergence/suites/*.divergence.jsonl")
    assert suite.read_bytes() == found.suite_path.read_bytes()
    assert bench(root, pair, load_pair=no_models).is_cached


class StopAt(Silence):
    """Ctrl-C when the n-th message of a phase that begins so comes."""

    def __init__(self, phase: str, count: int = 1) -> None:
        self.phase = phase
        self.left = count

    def progress(self, phase: str, done: int, total: int) -> None:
        if phase.startswith(self.phase):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


STOPS = [
    ("calibrate", 2),
    ("name", 1),
    ("train restart-1", 3),
    ("score", 4),
    ("test a lead", 1),
    ("confirm", 2),
]


@pytest.mark.parametrize(("phase", "count"), STOPS)
def test_an_interrupted_run_is_reported_and_ends_like_an_unbroken_one(
    bench: Bench,
    found: SearchOutcome,
    pair: ModelPair,
    tmp_path: Path,
    phase: str,
    count: int,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench(tmp_path, pair, listener=StopAt(phase, count))
    report, folder = bench.reports[-1]
    assert report.run.status == "incomplete"
    assert report.run.reason == "the user interrupted it"
    assert report.errors == []
    assert load_report(folder / "report.json") == report
    assert {case.verdict for case in report.cases} <= {"error"}
    assert (report.leads, report.power) == (None, None) or phase == "confirm"
    if phase.startswith("train"):
        assert len(report.cases) == PROFILE.num_cases, "what the search found by then"
        assert all(case.origin and case.origin.search_kl is not None for case in report.cases)

    resumed = bench(tmp_path, pair)

    assert resumed.suite_path.read_bytes() == found.suite_path.read_bytes()
    assert resumed.report.run.status == "complete"
    assert resumed.report.effort.tokens_forwarded == found.report.effort.tokens_forwarded
    assert [folder for _, folder in bench.reports] == [folder, resumed.report_dir]


class KillAt(StopAt):
    """Ends the process as `kill -9` does: nothing is tidied up."""

    def progress(self, phase: str, done: int, total: int) -> None:
        try:
            super().progress(phase, done, total)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of fork, Python 3.12
def test_a_killed_run_goes_on_and_ends_like_an_unbroken_one(
    bench: Bench, found: SearchOutcome, pair: ModelPair, tmp_path: Path
) -> None:
    for phase, count in (("train restart-1", 3), ("confirm", 1)):
        child = os.fork()
        if child == 0:
            try:
                bench(tmp_path, pair, listener=KillAt(phase, count))
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)

    before = pair.tokens_forwarded
    resumed = bench(tmp_path, pair)

    again = pair.tokens_forwarded - before
    assert 0 < again < found.report.effort.tokens_forwarded / 4, "what was done is not done twice"
    assert resumed.suite_path.read_bytes() == found.suite_path.read_bytes()
    ours, theirs = (sidecar_path(one.suite_path, "tokens.jsonl") for one in (resumed, found))
    assert ours.read_bytes() == theirs.read_bytes()


def test_an_interrupted_run_keeps_the_suite_of_an_earlier_one(
    bench: Bench, found: SearchOutcome, pair: ModelPair, root: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench(root, pair, is_forced=True, listener=StopAt("calibrate", 2))

    kept = root / found.suite_path.relative_to(found.suite_path.parents[2])
    assert kept.read_bytes() == found.suite_path.read_bytes()


@pytest.mark.slow
def test_a_budget_ends_a_resumed_run_where_it_ends_an_unbroken_one(
    bench: Bench, found: SearchOutcome, pair: ModelPair, tmp_path: Path
) -> None:
    """The second soft prompt is trained where it fits, to the token.

    What is left then is too little for the others, which have had no round: these cost more.
    """
    curve = found.report.search_curve
    first = next(i for i, point in enumerate(curve) if point.strategy == "soft_prompt")
    cost = curve[first].tokens_forwarded - curve[first - 1].tokens_forwarded
    fits = curve[first].tokens_forwarded + cost + PROFILE.reserved_for(1)
    for budget, num_trained in ((fits - 1, 1), (fits, 2)):
        settings = bench.settings(budget=str(budget))
        unbroken = bench(tmp_path / f"unbroken-{budget}", pair, settings=settings)
        stopped = tmp_path / f"stopped-{budget}"
        with pytest.raises(KeyboardInterrupt):
            bench(stopped, pair, settings=settings, listener=StopAt("train restart-1", 4))
        resumed = bench(stopped, another_session(bench.models), settings=settings)

        assert len(unbroken.report.training) == num_trained
        assert resumed.report.training == unbroken.report.training
        assert resumed.suite_path.read_bytes() == unbroken.suite_path.read_bytes()


def another_session(models: Path) -> ModelPair:
    """The same pair, loaded again."""
    return load_model_pair(str(models / "base"), str(models / "ft"))


def test_a_budget_that_leaves_none_for_the_search_is_a_settings_error(
    bench: Bench, pair: ModelPair, tmp_path: Path
) -> None:
    """Before the models load, where that is sure; or once calibration has taken the rest."""
    least = PROFILE.calibration_tokens + PROFILE.reserved_tokens
    for budget in (1, least):
        with pytest.raises(SettingsError) as caught:
            bench(tmp_path, pair, settings=bench.settings(budget=str(budget)))
        if budget == 1:
            assert bench.num_loads == 0
            assert str(caught.value) == (
                f"--divergence-budget=1 is too small: profile smoke needs at least {least} "
                f"forwarded tokens, {PROFILE.calibration_tokens} to calibrate and "
                f"{PROFILE.reserved_tokens} to test leads and confirm cases; raise it"
            )

    report = bench.reports[-1][0]
    spent = report.effort.tokens_forwarded
    assert str(caught.value) == (
        f"a budget of {least} forwarded tokens leaves none for the search: calibration took "
        f"{spent}, and {PROFILE.reserved_tokens} are reserved to test leads and confirm cases; "
        f"raise --divergence-budget well above {spent + PROFILE.reserved_tokens}"
    )
    assert (report.run.status, report.errors[-1].where) == ("incomplete", "SettingsError")


def test_identical_models_are_searched_and_pass(bench: Bench, tmp_path: Path) -> None:
    base = str(bench.models / "base")
    twins = load_model_pair(base, base)

    outcome = bench(tmp_path, twins, settings=bench.settings(model_2=base))

    assert outcome.report.verdict_counts == {"passed": PROFILE.num_cases}
    assert not outcome.report.errors
    for case in load_suite(outcome.suite_path).cases:
        assert case.kl is not None
        assert abs(case.kl.value) <= 1e-6
        assert case.max_kl is not None
        assert 0 < case.max_kl < 1e-3


class Words:
    """Proposes given texts, once."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        return [Proposal(text, "words") for text in self.texts] if context.round == 0 else []


class Broken:
    """A third party's strategy with a bug."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        raise ZeroDivisionError("no luck")


def test_a_strategy_that_fails_is_reported_and_the_others_go_on(
    bench: Bench, pair: ModelPair, tmp_path: Path
) -> None:
    """Of texts, those that hold control tokens or nothing are dropped."""
    texts = ("A word?", "Hi<|im_end|>", "Another word, please.", " ")
    added = {"broken": Broken(), "words": Words(*texts)}
    strategies = {**built_in_strategies(), **added}

    outcome = bench(tmp_path, pair, strategies=strategies)

    assert [(one.where, one.message) for one in outcome.report.errors] == [
        ("strategy broken", "ZeroDivisionError: no luck")
    ]
    scored = {one.name: one.num_proposals for one in outcome.report.strategies}
    assert scored["words"] == 2
    assert scored["seeds"] > 0
    assert len(outcome.report.cases) == PROFILE.num_cases


class Flaky(Words):
    """Needs a service that may be down."""

    def __init__(self, service: Path, *texts: str) -> None:
        super().__init__(*texts)
        self.service = service

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        self.service.read_bytes()
        return super().propose(pair, context)


class Further(Words):
    """Goes on from the best prompt so far."""

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        best = context.best[0] if context.best else "nothing"
        return [Proposal(f"{best} {text}", "further") for text in self.texts[context.round :][:1]]


def test_once_a_strategy_no_longer_fails_the_search_is_as_if_it_never_had(
    bench: Bench, pair: ModelPair, tmp_path: Path
) -> None:
    """What came after the failure went on from less: it is not read back."""
    service = tmp_path / "service"
    names = ("flaky", "further")
    texts = ("Which river is long?", "§ Żółw ʘ", "Name a lamp.")
    strategies = dict(zip(names, (Flaky(service, *texts), Further("a", "b", "c")), strict=True))

    failed = bench(tmp_path / "resumed", pair, strategies=strategies)
    again = bench(tmp_path / "resumed", pair, strategies=strategies)
    service.touch()
    resumed = bench(tmp_path / "resumed", pair, strategies=strategies)
    undisturbed = bench(tmp_path / "undisturbed", pair, strategies=strategies)

    for one in (failed, again):
        (error,) = one.report.errors
        assert error.where == "strategy flaky"
    assert again.is_cached, "as long as it fails, what came after it is read back"
    assert not resumed.report.errors
    assert resumed.report.search_curve == undisturbed.report.search_curve
    assert resumed.report.effort.tokens_forwarded == undisturbed.report.effort.tokens_forwarded
    assert resumed.suite_path.read_bytes() == undisturbed.suite_path.read_bytes()


def test_where_all_strategies_fail_the_first_failure_is_named(
    bench: Bench, pair: ModelPair, tmp_path: Path
) -> None:
    broken = dict.fromkeys(built_in_strategies(), Broken())

    with pytest.raises(MeasurementError) as caught:
        bench(tmp_path, pair, strategies=broken)
    assert str(caught.value) == ("no prompt was scored; strategy seeds: ZeroDivisionError: no luck")


def test_a_model_that_no_longer_loads_is_no_strategys_fault(
    bench: Bench, pair: ModelPair, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        bench(tmp_path, pair, listener=StopAt("search: seeds"))

    def fail() -> ModelPair:
        raise ModelLoadError("--model-2 is gone")

    with pytest.raises(ModelLoadError, match="--model-2 is gone"):
        bench(tmp_path, pair, load_pair=fail)
    assert bench.reports[-1][0].errors[-1].where == "ModelLoadError"


def modified(change: Callable[[list[Case]], None]) -> dict[str, Any]:
    return {"modify_cases": change}


def test_a_hook_can_drop_a_case_and_change_a_limit_and_the_verdicts_follow(
    bench: Bench, pair: ModelPair, root: Path
) -> None:
    dropped: list[str] = []

    def change(cases: list[Case]) -> None:
        dropped.append(cases.pop(0).id)
        cases[:] = [case.with_changes(max_kl=STRICT, tags=("strict",)) for case in cases]

    outcome = bench(root, pair, **modified(change))

    suite = load_suite(outcome.suite_path)
    ids = [case.id for case in suite.cases]
    assert len(ids) == PROFILE.num_cases - 1
    assert dropped[0] not in ids
    assert {case.tags for case in suite.cases} == {("strict",)}
    assert [case.id for case in outcome.report.cases] == ids
    tokens = load_tokens(sidecar_path(outcome.suite_path, "tokens.jsonl"))
    assert set(tokens) == {row.id for row in suite.rows}
    assert outcome.report.verdict_counts == {"failed": len(ids)}


def test_a_hook_may_leave_a_case_to_the_bound_but_set_no_limit_inside_the_noise(
    bench: Bench, found: SearchOutcome, pair: ModelPair, root: Path
) -> None:
    def relax(cases: list[Case]) -> None:
        cases[:] = [case.with_changes(max_kl=None) for case in cases]

    def tighten(cases: list[Case]) -> None:
        cases[0] = cases[0].with_changes(max_kl=1e-9)

    with pytest.raises(SettingsError, match=r"case [\w-]+: max_kl=1e-09 is within the noise"):
        bench(root, pair, **modified(tighten))
    (suite,) = root.glob(".divergence/suites/*.divergence.jsonl")
    assert suite.read_bytes() == found.suite_path.read_bytes()

    outcome = bench(root, pair, **modified(relax))
    assert {case.max_kl for case in load_suite(outcome.suite_path).cases} == {None}
    assert outcome.report.cases == found.report.cases


def test_a_search_whose_cases_a_hook_drops_has_come_to_its_end(
    bench: Bench, pair: ModelPair, root: Path
) -> None:
    """Its suite holds the control rows alone, which no replay takes for a suite that passes."""
    outcome = bench(root, pair, **modified(lambda cases: cases.clear()))

    assert (outcome.report.run.status, outcome.report.errors) == ("complete", [])
    assert outcome.report.verdict_counts == {}
    assert not outcome.report.has_cases
    with pytest.raises(SuiteError, match="has no cases; an empty suite would pass without a test"):
        load_suite(outcome.suite_path)
    tokens = load_tokens(sidecar_path(outcome.suite_path, "tokens.jsonl"))
    rows = outcome.suite_path.read_text("utf-8").splitlines()
    assert {json.loads(row)["id"] for row in rows} == set(tokens) != set()
    written = load_provenance(sidecar_path(outcome.suite_path, "provenance.json")).rows
    assert written is not None
    assert set(written) == set(tokens)


def test_the_natural_gate_reports_what_no_one_would_write_apart(
    bench: Bench, found: SearchOutcome, pair: ModelPair, tmp_path: Path
) -> None:
    settings = bench.settings(gate="natural", num_cases=5)
    odd = Words(*"§µ¶ßðøþĐĦĲŁŊŒŦƀƁƂǅȢʘΩЖקش世界🙂ᚠ")
    strategies = {"seeds": odd, "self_prompt": Words(), "soft_prompt": Words()}

    natural = bench(tmp_path, pair, settings=settings, strategies=strategies)

    apart = {case.id for case in natural.report.cases if case.off_distribution}
    exported = {case.id for case in load_suite(natural.suite_path).cases}
    limit = load_provenance(sidecar_path(natural.suite_path, "provenance.json")).nll_limit
    assert limit is not None
    assert apart
    assert not apart & exported
    assert sum(natural.report.verdict_counts.values()) == len(exported)
    for case in natural.report.cases:
        assert case.prompt_nll is not None
        assert case.off_distribution == (case.prompt_nll > limit)
    assert not any(case.off_distribution for case in found.report.cases)


def test_seeds_come_from_a_file_reports_go_where_they_are_sent_and_phases_come_in_order(
    bench: Bench, pair: ModelPair, tmp_path: Path
) -> None:
    seeds, elsewhere = tmp_path / "seeds.jsonl", tmp_path / "elsewhere"
    seeds.write_text('{"input": "One fine seed?"}\n{"prompt": "Another good seed."}\n')
    settings = bench.settings(seeds=str(seeds), report_dir=str(elsewhere))
    phases: list[str] = []

    class Notes(Silence):
        def progress(self, phase: str, done: int, total: int) -> None:
            assert 0 <= done <= total
            if not phases or phases[-1] != phase:
                phases.append(phase)

    outcome = bench(tmp_path, pair, settings=settings, listener=Notes())

    assert outcome.report.strategies[0].num_proposals == 2
    assert outcome.report_dir.parent == elsewhere
    assert (elsewhere / "latest").resolve() == outcome.report_dir.resolve()
    assert phases[:3] == ["calibrate", "name what changed", "search: seeds"]
    assert "train restart-1-free" in phases
    assert phases[-1] == "confirm"


def test_a_bad_seeds_file_or_report_folder_stops_before_anything_is_made(
    bench: Bench, pair: ModelPair, tmp_path: Path
) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text('{"input": "fine"}\n{"text": "not fine"}\n')

    with pytest.raises(SettingsError) as caught:
        bench(tmp_path, pair, settings=bench.settings(seeds=str(seeds)))
    assert str(caught.value).startswith(f"{seeds}:2: a seed is an object with")
    assert not (tmp_path / ".divergence").exists()
    with pytest.raises(StoreError, match="cannot make the folder"):
        bench(tmp_path, pair, settings=bench.settings(report_dir=str(seeds / "r")))
    assert bench.num_loads == 0


def test_a_run_that_only_waited_for_another_process_leaves_no_report_folder(
    bench: Bench, pair: ModelPair, tmp_path: Path
) -> None:
    class Impatient(Silence):
        def say(self, text: str) -> None:
            assert "another process is measuring this pair" in text
            raise KeyboardInterrupt

    files = PairFiles(tmp_path, bench.settings())
    earlier = files.folder.new_report_dir("earlier")

    with files.locked(Silence()), pytest.raises(KeyboardInterrupt):
        bench(tmp_path, pair, listener=Impatient())

    assert latest_report_dir(files.folder.reports) == earlier
    assert bench.reports == []


def test_a_damaged_journal_is_said_and_costs_only_its_units(
    bench: Bench, found: SearchOutcome, pair: ModelPair, root: Path
) -> None:
    journal = next(root.glob(".divergence/journal/base-*.jsonl"))
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b"result", b"resolt")
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])

    class Hears(Silence):
        said: list[str] = []  # noqa: RUF012 (one listener)

        def say(self, text: str) -> None:
            self.said.append(text)

    again = bench(root, pair, listener=Hears())

    assert again.suite_path.read_bytes() == found.suite_path.read_bytes()
    assert not again.is_cached
    assert "a torn tail of 20 bytes was removed; 1 damaged unit is redone" in Hears.said[0]


@pytest.mark.slow
def test_a_pair_in_memory_can_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DIVERGENCE_CACHE", str(tmp_path / "cache"))
    pair = tiny_pair()

    written: list[str] = []
    line = ProgressLine(written.append)

    first = discover(pair, Settings(profile="smoke"), root=tmp_path, listener=line)
    again = discover(tiny_pair(), Settings(profile="smoke"), root=tmp_path)
    other = discover(tiny_pair(perturb=0.31), Settings(profile="smoke"), root=tmp_path)

    assert first.report.run.status == "complete"
    assert "\rcalibrate 0/" in "".join(written)
    assert first._repr_html_() == first.report._repr_html_()
    assert first._repr_html_().startswith('<iframe sandbox="allow-scripts" srcdoc="')
    saved = load_report(first.report_dir / "report.json")
    assert first.report.model_dump() == saved.model_dump()
    case: Any = first.report.cases[0]
    assert "<th scope='row'>prompt</th>" in case._repr_html_()
    assert again.is_cached
    assert not other.is_cached
    assert first.suite_path == again.suite_path
    assert first.suite_path.is_file()
    assert first.suite_path != other.suite_path, "a second fine-tune replaces no suite"


@pytest.mark.slow
def test_a_pair_loaded_otherwise_gets_results_of_its_own(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DIVERGENCE_CACHE", str(tmp_path / "cache"))
    models = str(bench.models / "base"), str(bench.models / "ft")
    dated = tmp_path / "dated.jinja"
    dated.write_text("{{ date_string }}" + CHATML, "utf-8")

    def found(**how: Any) -> SearchOutcome:
        pair = load_model_pair(*models, chat_template=str(dated), **how)
        return discover(pair, Settings(profile="smoke"), root=tmp_path)

    plain = found()
    arguments = {"date_string": "24 Dec 2026"}
    system_prompt = "Answer in French."
    other = found(dtype="bfloat16", system_prompt=system_prompt, template_arguments=arguments)

    assert not other.is_cached
    assert (plain.report.pair.dtype, other.report.pair.dtype) == ("float32", "bfloat16")
    made = load_provenance(sidecar_path(other.suite_path, "provenance.json"))
    for recorded in (made.settings, other.report.settings):
        assert recorded["system_prompt"] == system_prompt
        assert recorded["template_arg"] == arguments
    assert plain.report.settings["system_prompt"] is None
    assert plain.report.settings["template_arg"] == {}, "the frozen date was not asked for"
