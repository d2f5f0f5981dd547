"""`*.divergence.jsonl` files become pytest items, and cases become tests' parameters.

Knows which suites take part in a session, and what an item asserts. Does not know how a prompt is
measured (`pytest_divergence.scoring`) or found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast, get_args

import pytest

from pytest_divergence.options import SUITE_SUFFIX
from pytest_divergence.progress_display import SKIP_PREFIX
from pytest_divergence.session import NO_MODELS, REPORT_KEY, SUITE_KEY, DivergenceSession, of

if TYPE_CHECKING:
    from pytest_divergence.core.cases import Case, Completions, Measurement
    from pytest_divergence.core.provenance import Provenance
    from pytest_divergence.core.report import Report, TokenComparison
    from pytest_divergence.core.settings import MetricName
    from pytest_divergence.core.suites import Suite
    from pytest_divergence.core.tokens import StoredTokens
    from pytest_divergence.discovery.run import SearchOutcome
    from pytest_divergence.models.pair import ModelPair
    from pytest_divergence.scoring.scorer import PromptScore

FOLDER = ".divergence"
OUR_NODEIDS = re.compile(r"\.divergence\.jsonl::|\[[^\]]*-[0-9a-f]{10}\b")
"""Suite items, and tests that run once for each case."""
SEARCH_ITEM = "search"
SAME_SETTINGS = ("chat_template", "system_prompt", "dtype")
"""Settings under which a stored value was measured; others give another value."""


class _Sizes(TypedDict):
    num_continuations: int
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class StoredSuite:
    """A suite and the files beside it."""

    suite: Suite
    provenance: Provenance | None
    tokens: Mapping[str, StoredTokens]
    """Continuations by case id; hand-written suites have none."""


@dataclass(frozen=True)
class Reading:
    """What an item judges: a measurement, and the positions that it was made of."""

    measurement: Measurement
    tokens: Sequence[TokenComparison] = ()
    completions: Completions | None = None
    """What these models answer, where that was asked; else the suite's are shown."""


def read_suite(path: Path) -> StoredSuite:
    """A suite with its provenance and tokens, where there are any. Raises SuiteError."""
    from pytest_divergence.core.provenance import load_provenance
    from pytest_divergence.core.suites import load_suite, sidecar_path
    from pytest_divergence.core.tokens import load_tokens

    provenance, tokens = (sidecar_path(path, kind) for kind in ("provenance.json", "tokens.jsonl"))
    return StoredSuite(
        load_suite(path),
        load_provenance(provenance) if provenance.is_file() else None,
        load_tokens(tokens) if tokens.is_file() else {},
    )


# Which suites take part


def named_suites(session: DivergenceSession) -> list[Path]:
    """The suites among the session's arguments."""
    return [path for path in session.arguments if path.name.endswith(SUITE_SUFFIX)]


def mode(session: DivergenceSession) -> str:
    """`search`, `replay` or `off`; `auto` replays given suites, and always in CI."""
    asked = session.resolved.settings.mode
    if asked != "auto":
        return asked
    is_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return "replay" if is_ci or named_suites(session) else "search"


def adds_own_suite(session: DivergenceSession) -> bool:
    """Whether the search's cases join the session without being named."""
    choice = session.choice("builtin_suite")
    if not session.has_models or session.is_off or choice == "off":
        return False
    return choice == "on" or (session.is_explicit and not session.has_paths)


def joining_suite(session: DivergenceSession) -> Path | None:
    """The search's suite, where it joins this session and exists."""
    if session.worker_input is not None:
        sent = session.worker_input.get(SUITE_KEY)
        return Path(sent) if sent else None
    if not adds_own_suite(session):
        return None
    return session.own_suite if session.outcome or session.own_suite.is_file() else None


def more_arguments(session: DivergenceSession) -> list[str]:
    """The search's suite as an argument of the session, unless a folder among them leads to it.

    Before pytest 9 a folder and a file inside of it, both given, collected the file alone.
    """
    suite = joining_suite(session)
    if suite is None or any(path in suite.parents for path in session.arguments):
        return []
    return [str(suite)]


def prepare(session: DivergenceSession) -> None:
    """Before collection: search, or make sure that there is something to replay.

    Nothing happens where only a path or the ini file could ask for the models: that shows later.
    """
    is_ours = session.has_models and not session.is_off and not session.is_listing
    is_eager = session.is_explicit and (session.is_controller or not session.has_paths)
    if is_ours and (is_eager or adds_own_suite(session)):
        session.is_used = True
        if mode(session) == "search":
            session.outcome()
        elif adds_own_suite(session):
            _require_suite(session)
    if session.is_controller and (session.is_used or named_suites(session)):
        _validate_suites(session)


def is_hidden(path: Path, config: pytest.Config) -> bool | None:
    """Whether to ignore a path of `.divergence/`: all but the suites that take part.

    None for paths elsewhere. The folder would be skipped as a hidden one, suites and all.
    """
    if FOLDER not in path.parts:
        return None
    session = of(config)
    own = joining_suite(session)
    shown = [*named_suites(session), *([own] if own else [])]
    return not any(path in (one, *one.parents[:2]) for one in shown)


def cases_for(session: DivergenceSession, marks: Iterator[pytest.Mark]) -> list[Case]:
    """What `divergence_case` stands for in one test, after its marker's filters, by id."""
    chosen = session_cases(session)
    for wanted in (mark.kwargs for mark in marks):
        ids = wanted.get("id")
        ids = [ids] if isinstance(ids, str) else ids
        chosen = [
            case
            for case in chosen
            if (ids is None or case.id in ids) and wanted.get("behaviour") in (None, case.behaviour)
        ]
        if (limit := wanted.get("limit")) is not None:
            chosen = sorted(chosen, key=lambda case: -(case.kl.value if case.kl else 0.0))[:limit]
    return sorted(chosen, key=lambda case: case.id)


def session_cases(session: DivergenceSession) -> list[Case]:
    """The cases of the named suites in replay, else of the search. Raises UsageError."""
    from pytest_divergence.core.suites import load_suite

    session.is_used = True
    with session.usage_errors():
        paths = named_suites(session)
        if mode(session) == "search" and not session.is_listing:
            paths = [session.own_suite] if session.outcome().report.cases else []
        elif not paths and session.own_suite.is_file():
            paths = [session.own_suite]
        elif not paths and not session.is_listing:
            raise _nothing_to_replay(session)
        return [case for path in paths for case in load_suite(path).cases]


def _suites_below(session: DivergenceSession) -> Iterator[Path]:
    """Every suite that pytest would find from the session's arguments."""
    hidden = session.config.getini("norecursedirs")
    for path in session.arguments:
        if path.is_file() and path.name.endswith(SUITE_SUFFIX):
            yield path
        for folder, below, files in os.walk(path):
            below[:] = [one for one in below if not any(fnmatch(one, p) for p in hidden)]
            yield from (Path(folder, file) for file in files if file.endswith(SUITE_SUFFIX))


def _require_suite(session: DivergenceSession) -> None:
    if not session.own_suite.is_file() and not any(_suites_below(session)):
        raise _nothing_to_replay(session)


def _nothing_to_replay(session: DivergenceSession) -> pytest.UsageError:
    is_ci = session.resolved.settings.mode == "auto"
    why = ", and in CI nothing is searched unless you ask for it" if is_ci else ""
    return pytest.UsageError(
        f"there is no suite to replay: no *{SUITE_SUFFIX} is given, nor is there "
        f"{session.shown(session.own_suite)}{why}; commit a suite and name it, or search with "
        "--divergence-mode=search"
    )


def search_outcome(session: DivergenceSession) -> SearchOutcome:
    """The outcome of this session's search. Raises UsageError where it only replays."""
    if session.has_models and mode(session) != "search":
        raise pytest.UsageError(
            "this needs a search, and this session only replays; add --divergence-mode=search"
        )
    return session.outcome()


def for_workers(session: DivergenceSession) -> dict[str, str]:
    """What the controller of pytest-xdist tells its workers."""
    told = {}
    if (suite := joining_suite(session)) is not None:
        told[SUITE_KEY] = str(suite)
    if session.outcome:
        told[REPORT_KEY] = str(session.outcome().report_dir)
    return told


def scheduler(config: pytest.Config, log: Any) -> Any:
    """For `--dist load`: our items on one worker, all others one by one."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class DivergenceScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return "divergence" if OUR_NODEIDS.search(nodeid) else nodeid

    return DivergenceScheduling(config, log)


def _validate_suites(session: DivergenceSession) -> None:
    """Workers cannot end a session by one clear error, so their controller looks first."""
    with session.usage_errors():
        for path in _suites_below(session):
            _bounds(session, path, read_suite(path))
            if session.has_models and not session.outcome:
                session.identities()


def parametrize(metafunc: pytest.Metafunc, session: DivergenceSession) -> None:
    """Give a test that takes `divergence_case` one run a case; our id comes first in brackets."""
    try:
        params = _params(metafunc, session)
    except pytest.UsageError:
        if session.worker_input is not None:
            raise
        params = []  # `session.error` ends the session once this file is collected
    metafunc.parametrize("divergence_case", params, indirect=True)


def _params(metafunc: pytest.Metafunc, session: DivergenceSession) -> list[Any]:
    has_cases = session.has_models or named_suites(session)
    if session.is_off or not has_cases:
        why = "--divergence-mode=off" if session.is_off else f"divergence_case {NO_MODELS}"
        return [_skipped("unconfigured", why)]
    cases = cases_for(session, metafunc.definition.iter_markers("divergence"))
    if not cases and session.is_listing:
        return [_skipped("pending", "no search has run yet")]
    if not cases:
        return [_skipped("none", "no case of the search passes this test's filters")]
    return [
        pytest.param(
            case, id=case.id, marks=pytest.mark.divergence(id=case.id, behaviour=case.behaviour)
        )
        for case in cases
    ]


def _skipped(name: str, why: str) -> Any:
    return pytest.param(None, id=name, marks=pytest.mark.skip(reason=SKIP_PREFIX + why))


# Items


class SuiteFile(pytest.Module):
    """A suite in pytest's tree; a module, so that module-scoped fixtures have a place."""

    obj = None

    def collect(self) -> list[pytest.Item]:
        """One item a case, after the item `search` where this session's search wrote the suite."""
        session = of(self.config)
        session.is_used = True
        with session.usage_errors():
            report = self._report(session)
            searched: list[pytest.Item] = []
            if report is not None:
                searched.append(SearchItem.make(self, report))
            if report is not None and not report.cases:
                return searched  # a search that confirmed nothing may have written no suite
            return [*searched, *self._case_items(session, is_fresh=report is not None)]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """An unusable suite is one line, without a traceback."""
        if isinstance(excinfo.value, pytest.UsageError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def _report(self, session: DivergenceSession) -> Report | None:
        """The report of the search that wrote this suite in this session, if one did."""
        has_search = session.outcome or REPORT_KEY in (session.worker_input or {})
        if not has_search or self.path != session.own_suite:
            return None
        return session.outcome().report

    def _case_items(self, session: DivergenceSession, *, is_fresh: bool) -> list[pytest.Item]:
        stored = read_suite(self.path)
        bounds = {} if session.is_listing else _bounds(session, self.path, stored)
        has_own_pair = self._has_own_pair()
        if not (is_fresh or has_own_pair or session.is_listing):
            if not session.has_models:
                raise pytest.UsageError(f"replaying {session.shown(self.path)} {NO_MODELS}")
            if session.worker_input is None:  # a worker without our items need not import torch
                session.identities()

        def is_carried(case: Case) -> bool:
            return is_fresh or (not has_own_pair and _is_measured_so(session, stored, case))

        return [
            CaseItem.make(self, case, stored, bounds.get(case.id, 0.0), is_carried)
            for case in stored.suite.cases
        ]

    def _has_own_pair(self) -> bool:
        """Whether a conftest overrides `model_pair` for this suite."""
        found = self.session._fixturemanager.getfixturedefs("model_pair", self) or ()
        return bool(found) and found[-1].func.__module__ != "pytest_divergence.plugin"


def _is_measured_so(session: DivergenceSession, stored: StoredSuite, case: Case) -> bool:
    """Whether a stored value was measured on this session's models, and as it asks for."""
    provenance = stored.provenance
    if provenance is None or case.kl is None or case.kl.metric != _metric(session, case):
        return False
    settings = session.resolved.settings.model_dump(include=set(SAME_SETTINGS))
    if any(provenance.settings.get(key, value) != value for key, value in settings.items()):
        return False
    written = (provenance.reference.weights_sha256, provenance.candidate.weights_sha256)
    return written == tuple(one.weights_sha256 for one in session.identities())


def check(_divergence_setup: SuiteItem) -> None:
    """What every item of a suite calls: measured in setup, judged here."""
    _divergence_setup.judge()


class SuiteItem(pytest.Function):
    """An item of a suite: a function to pytest, so that fixtures and other plugins work."""

    line: int

    @classmethod
    def named(cls, parent: SuiteFile, name: str, line: int) -> Any:
        """An item called `name`, standing at a line of the suite."""
        item = cls.from_parent(parent, name=name, callobj=check)
        item.line = line
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Get what `judge` needs; failing here is an error, not a failed test."""
        raise NotImplementedError

    def judge(self) -> None:
        """Fail unless the item passes."""
        raise NotImplementedError

    def reportinfo(self) -> tuple[Path, int, str]:
        """The line of the suite, so that editors and CI point at it."""
        return self.path, self.line - 1, self.name


class CaseItem(SuiteItem):
    """Asserts that one case's divergence is within its bound."""

    case: Case
    stored: StoredSuite
    max_kl: float
    is_carried: Callable[[Case], bool]
    reading: Reading

    @classmethod
    def make(
        cls,
        parent: SuiteFile,
        case: Case,
        stored: StoredSuite,
        max_kl: float,
        is_carried: Callable[[Case], bool],
    ) -> CaseItem:
        """The item of one row."""
        item: CaseItem = cls.named(parent, case.id, stored.suite.lines[case.id])
        item.case, item.stored, item.max_kl, item.is_carried = case, stored, max_kl, is_carried
        item.add_marker(pytest.mark.divergence(id=case.id, behaviour=case.behaviour))
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """Take the search's value, or replay the case on the session's models."""
        session = of(self.config)
        note(self, verdict="error")  # until it is measured
        with session.failures():
            if self.case.kl is not None and self.is_carried(self.case):
                self.reading = Reading(self.case.kl)
            else:
                self.reading = self._replayed(session, request)

    def judge(self) -> None:
        """Fail with prompt, answers and numbers where the value is over the bound."""
        from pytest_divergence.core.verdicts import judge
        from pytest_divergence.reports.terminal import failure_text

        reading, session = self.reading, of(self.config)
        verdict = judge(reading.measurement.value, self.max_kl)
        note(self, verdict=verdict, kl=reading.measurement.value, bound=self.max_kl)
        if verdict == "passed":
            return
        case = self.case
        if reading.completions is not None:
            case = case.with_changes(completions=reading.completions)
        text = failure_text(
            case,
            measurement=reading.measurement,
            max_kl=self.max_kl,
            noise_floor=_noise_floor(self.stored.provenance),
            tokens=reading.tokens or self._searched_tokens(session),
            rerun=session.rerun(self.nodeid),
            suite=session.shown(self.path),
        )
        pytest.fail(text, pytrace=False)

    def _replayed(self, session: DivergenceSession, request: pytest.FixtureRequest) -> Reading:
        from pytest_divergence.core.verdicts import judge
        from pytest_divergence.scoring.replay import replay_case

        pair: ModelPair = request.getfixturevalue("model_pair")
        sizes = _sizes(session, pair)
        replayed = replay_case(
            pair,
            self.case,
            self.stored.tokens.get(self.case.id),
            metric=_metric(session, self.case),
            **sizes,
        )
        is_shown = judge(replayed.measurement.value, self.max_kl) == "failed"
        answers = _answers(pair, self.case, sizes["max_new_tokens"]) if is_shown else None
        return Reading(replayed.measurement, replayed.tokens, answers)

    def _searched_tokens(self, session: DivergenceSession) -> Sequence[TokenComparison]:
        cases = session.report.cases if session.report is not None else []
        return next((case.tokens for case in cases if case.id == self.case.id), [])


class SearchItem(SuiteItem):
    """Passes only where the search of this session ran to its end without errors."""

    report: Report

    @classmethod
    def make(cls, parent: SuiteFile, report: Report) -> SearchItem:
        """The item of one search."""
        item: SearchItem = cls.named(parent, SEARCH_ITEM, 1)
        item.report = report
        item.add_marker(pytest.mark.divergence)
        return item

    def measure(self, request: pytest.FixtureRequest) -> None:
        """An incomplete search is an error: what it did not see never counts as a pass."""
        from pytest_divergence.core.safe_text import safe_line

        reasons = [f"{one.where}: {safe_line(one.message)}" for one in self.report.errors]
        if self.report.run.status != "complete":
            reasons.insert(0, "it stopped before it was complete")
        if reasons:
            note(self, verdict="error")
            pytest.fail(
                "the search cannot vouch for the models: " + "; ".join(reasons), pytrace=False
            )

    def judge(self) -> None:
        """Pass, and say what the search would have seen."""
        sentence = search_sentence(self.report)
        note(self, verdict="passed", search=sentence)
        self.add_report_section("call", "divergence", sentence)


def search_sentence(report: Report) -> str:
    """How much a search saw, and how rare a behaviour it would have missed."""
    over = sum(case.verdict == "failed" for case in report.cases)
    sentence = f"{report.effort.prompts_scored:,} prompts scored, {over} over the bound"
    shift = report.calibration.typical_shift
    if shift is None or shift.num_controls < 3:
        return sentence
    return (  # the rule of three: 0 of n seen means a rate of at most 3 / n, at 95 %
        f"{sentence}; a behaviour shown by more than 1 ordinary prompt in "
        f"{shift.num_controls // 3} would have been seen (95 %)"
    )


# A user's own assertion


def assert_bounded(
    request: pytest.FixtureRequest, prompt: Any, max_kl: float | None, metric: str | None
) -> PromptScore:
    """Measure a prompt (text, messages or case); fail in words where it is over its bound."""
    from pytest_divergence.core.cases import Case
    from pytest_divergence.core.verdicts import judge
    from pytest_divergence.scoring.replay import case_prompt, measure_prompt

    session = of(request.config)
    with session.failures():
        pair: ModelPair = request.getfixturevalue("model_pair")
        case = prompt if isinstance(prompt, Case) else _case_of(prompt)
        bound = _assertion_bound(request, session, case, max_kl)
        score = measure_prompt(
            pair,
            case_prompt(case),
            metric=_metric(session, case, metric),
            **_sizes(session, pair),
        )
    verdict = judge(score.measurement.value, bound)
    note(request.node, verdict=verdict, kl=score.measurement.value, bound=bound)
    if verdict == "failed":
        pytest.fail(_assertion_text(request, session, case, score, bound), pytrace=False)
    return score


def _case_of(prompt: Any) -> Case:
    from pydantic import ValidationError

    from pytest_divergence.core.cases import Case
    from pytest_divergence.core.errors import first_fault

    try:
        return Case(input=prompt) if isinstance(prompt, str) else Case(messages=tuple(prompt))
    except ValidationError as error:
        raise ValueError(first_fault(error, Case)) from None


def _assertion_bound(
    request: pytest.FixtureRequest, session: DivergenceSession, case: Case, max_kl: float | None
) -> float:
    """The bound of an assertion: argument, marker, case, option, then the search's own."""
    marks = (mark.kwargs.get("max_kl") for mark in request.node.iter_markers("divergence"))
    given = [max_kl, *marks, case.max_kl, session.number_bound]
    bound = next((one for one in given if one is not None), None)
    if bound is None and session.has_models:
        bound = _search_bound(session)
    if bound is None:
        raise pytest.UsageError(
            "assert_bounded_kl has no bound; give max_kl=..., or --divergence-max-kl"
        )
    if not 0 < bound < float("inf"):
        raise ValueError(f"max_kl={bound} must be a positive number of nats per token")
    return float(bound)


def _search_bound(session: DivergenceSession) -> float | None:
    if session.report is not None:
        bound = session.report.calibration.bound
        return bound.value if bound else None
    if not session.own_suite.is_file():
        return None
    provenance = read_suite(session.own_suite).provenance
    return provenance.bound.value if provenance and provenance.bound else None


def _assertion_text(
    request: pytest.FixtureRequest,
    session: DivergenceSession,
    case: Case,
    score: PromptScore,
    bound: float,
) -> str:
    from pytest_divergence.reports.terminal import failure_text
    from pytest_divergence.scoring.comparison import compare_tokens

    pair: ModelPair = request.getfixturevalue("model_pair")
    report = session.report
    floor = report.calibration.noise_floor if report is not None else None
    answers = _answers(pair, case, _sizes(session, pair)["max_new_tokens"])
    return failure_text(
        case.with_changes(completions=answers),
        measurement=score.measurement,
        max_kl=bound,
        noise_floor=floor.value if floor else None,
        tokens=compare_tokens(pair, score.prompt, score.continuations.candidate[0]),
        rerun=session.rerun(request.node.nodeid),
        suite=session.shown(request.node.path),
    )


# What both share


def note(item: pytest.Item, **values: str | float) -> None:
    """Leave what was measured on the item, for JUnit and other reports: plain values only.

    A value that pytest-xdist cannot send would lose the whole report, failure and all.
    """
    own = {f"divergence_{name}": value for name, value in values.items()}
    kept = [pair for pair in item.user_properties if pair[0] not in own]
    item.user_properties[:] = kept + [
        (name, value if isinstance(value, str) else float(value)) for name, value in own.items()
    ]


def _bounds(session: DivergenceSession, path: Path, stored: StoredSuite) -> dict[str, float]:
    """Each case's bound: the row's, else the option's, else the suite's. Never computed here.

    Raises UsageError for a case without any.
    """
    provenance = stored.provenance
    of_suite = provenance.bound.value if provenance and provenance.bound else None
    bounds = {}
    for case in stored.suite.cases:
        given = (case.max_kl, session.number_bound, of_suite)
        bound = next((one for one in given if one is not None), None)
        if bound is None:
            raise pytest.UsageError(
                f"{session.shown(path)}:{stored.suite.lines[case.id]}: case {case.id} has no "
                "bound; add max_kl to the row, or give --divergence-max-kl"
            )
        bounds[case.id] = bound
    return bounds


def _noise_floor(provenance: Provenance | None) -> float | None:
    return provenance.noise_floor.value if provenance and provenance.noise_floor else None


def _metric(session: DivergenceSession, case: Case, asked: str | None = None) -> MetricName:
    """The metric asked for in the test or the session, else the one the case was measured in."""
    from pytest_divergence.core.settings import MetricName

    known = get_args(MetricName)
    if asked is not None and asked not in known:
        raise ValueError(f"metric={asked!r} must be one of {', '.join(known)}")
    if asked is None and "metric" not in session.given and case.kl is not None:
        asked = case.kl.metric if case.kl.metric in known else None
    return cast("MetricName", asked) if asked else session.resolved.settings.metric


def _answers(pair: ModelPair, case: Case, max_new_tokens: int) -> Completions:
    """What both models answer greedily: a suite's stored answers may be other models'."""
    from pytest_divergence.core.cases import Completions
    from pytest_divergence.scoring.replay import case_prompt
    from pytest_divergence.scoring.scorer import greedy_continuations

    found = greedy_continuations(pair, [case_prompt(case)], max_new_tokens=max_new_tokens)[0]
    return Completions(
        reference=pair.chat.text(found.reference[0]), candidate=pair.chat.text(found.candidate[0])
    )


def _sizes(session: DivergenceSession, pair: ModelPair) -> _Sizes:
    settings = session.resolved.settings
    profile = settings.resolved_profile(pair.device.type)
    return {
        "num_continuations": profile.num_continuations,
        "max_new_tokens": profile.continuation_length,
        "seed": settings.seed,
    }
