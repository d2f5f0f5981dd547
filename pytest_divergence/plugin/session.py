"""One pytest session: what it is for, what it was given, its models, and what it has found.

What it is for is decided once, when it starts: a `SessionPlan`. Everything else is made on first
use and kept: a session loads a pair once and searches once. pytest loads this in every session, so
it imports nothing heavy; what is heavy, it is handed as `Makers`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from pytest_divergence.core.file_names import FOLDER, is_suite, suite_path
from pytest_divergence.plugin import xdist
from pytest_divergence.plugin._compat import announce
from pytest_divergence.plugin.model_pairs import Models, PairRules
from pytest_divergence.plugin.once import Once
from pytest_divergence.plugin.options import (
    BY_FIELD,
    INI,
    MODELS,
    PAIRS_INI,
    check_both_models,
    check_given_once,
    given,
)

if TYPE_CHECKING:
    from pytest_divergence.core.report import Report
    from pytest_divergence.discovery.run import SearchOutcome
    from pytest_divergence.models.pair import ModelPair
    from pytest_divergence.plugin.loaded_pairs import Pairs
    from pytest_divergence.plugin.settings_sources import SettingsWithSources

Rewriting = Literal["update", "fill"]
Action = Literal["nothing", "list", "search", "replay"] | Rewriting
Process = Literal["alone", "controller", "worker"]

LISTINGS = (
    "help",
    "version",
    "markers",
    "showfixtures",
    "show_fixtures_per_test",
    "cacheshow",
    "collectonly",
    "setupplan",
)
"""Options of pytest that list or plan; with none of them may a search start."""
RUNNER = "GITHUB_ACTIONS"
"""`true` on a runner of GitHub."""
NO_MODELS = "needs two models; give --model-1 and --model-2"


@dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """What a session does, as what, and with which suites."""

    action: Action
    """What it does where it is asked for something of ours."""
    process: Process
    suites: tuple[Path, ...]
    """Those among its arguments."""
    is_asked: bool
    """Whether this session, not only the ini file, names a model or asks for a search."""
    is_explicit: bool
    """Whether this session, not only the ini file, names a model."""
    adds_own_suite: bool
    """Whether the cases of the pair's search join without being named."""
    acts_first: bool
    """Whether it searches, or looks for what it replays, before anything is collected."""
    rewrites: Rewriting | None
    """How suites change in it, or would, where it only lists."""
    is_annotating: bool
    """Whether failures become annotations on GitHub."""

    @property
    def is_rewriting(self) -> bool:
        """Whether suites are measured afresh and written."""
        return self.action in ("update", "fill")

    @property
    def may_measure(self) -> bool:
        """Whether models may be used at all."""
        return self.action not in ("nothing", "list")


@dataclass(frozen=True)
class Makers:
    """What makes the heavy parts of a session, each when it is first asked for."""

    resolved: Callable[[pytest.Config], SettingsWithSources]
    pairs: Callable[[DivergenceSession], Pairs]
    outcome: Callable[[DivergenceSession], SearchOutcome]


class DivergenceSession:
    """What the hooks, items and fixtures of one pytest session share."""

    def __init__(self, config: pytest.Config, make: Makers) -> None:
        """Read what was given; nothing is checked, imported or written yet."""
        self.config = config
        self.given = given(config)
        start = config.invocation_params.dir
        self.arguments = [start / str(one).partition("::")[0] for one in config.args]
        """Files and folders that the session was asked for, before our own suite joins."""
        self.told = xdist.told_by_controller(config)
        """What pytest-xdist's controller sent; None where this is not a worker."""
        self.is_used = False
        """Whether a test, a suite or a search asked for the models."""
        self.error: pytest.UsageError | None = None
        """What must end the session, where it was raised inside of collection."""
        self.report: Report | None = None
        """The search's, also where it was stopped."""
        self.report_dir: Path | None = None
        self.rewritten: list[str] = []
        """What the summary says of suites that were measured afresh."""
        self.replayed = xdist.ReplayLog()
        """What the items of replayed suites came to, where a report of them was asked for."""
        self.say: Callable[[str], None] = partial(announce, config)
        """Shows people one line; while a search runs, on its display."""
        self.outcome: Once[SearchOutcome] = Once(self._search)
        self._rules = PairRules(config)
        self._make = make

    # What it is for

    @cached_property
    def plan(self) -> SessionPlan:
        """What this session does; decided when it starts. Raises UsageError for a wrong value."""
        sources = {self.given[field].source for field in MODELS if field in self.given}
        is_explicit = bool(sources - {INI})
        is_asked = is_explicit or self.said.get("mode") == "search"
        process = self._process
        rewrites, suites = self._rewrites, tuple(filter(is_suite, self.arguments))
        action = self._action(rewrites, suites)
        builtin = self.choice("builtin_suite")
        joins = is_asked and not self.has_paths and rewrites is None
        adds_own_suite = (
            self.has_models
            and action != "nothing"
            and builtin != "off"
            and (builtin == "on" or joins)
        )
        is_eager = is_asked and (process == "controller" or not self.has_paths)
        may_measure = action not in ("nothing", "list")
        github = self.choice("github")
        is_on_github = github == "auto" and os.environ.get(RUNNER) == "true"
        return SessionPlan(
            action=action,
            process=process,
            suites=suites,
            is_asked=is_asked,
            is_explicit=is_explicit,
            adds_own_suite=adds_own_suite,
            acts_first=self.has_models and may_measure and (is_eager or adds_own_suite),
            rewrites=rewrites,
            is_annotating=may_measure and process != "worker" and (github == "on" or is_on_github),
        )

    @property
    def _process(self) -> Process:
        if self.told is not None:
            return "worker"
        return "controller" if xdist.is_controller(self.config) else "alone"

    @property
    def _rewrites(self) -> Rewriting | None:
        fields: tuple[Rewriting, ...] = ("update", "fill")
        asked = (field for field in fields if field in self.given)
        return next((one for one in asked if getattr(self.resolved.settings, one)), None)

    def _action(self, rewrites: Rewriting | None, suites: tuple[Path, ...]) -> Action:
        """`auto` replays suites that are named, and always in CI."""
        mode = self.choice("mode")
        if mode == "off":
            return "nothing"
        if any(getattr(self.config.option, name, False) for name in LISTINGS):
            return "list"
        if rewrites is not None:
            return rewrites
        if mode == "search":
            return "search"
        return "replay" if mode == "replay" or is_ci() or suites else "search"

    @property
    def has_models(self) -> bool:
        """Whether both models are named."""
        return all(field in self.given for field in MODELS)

    @property
    def has_paths(self) -> bool:
        """Whether the command line names files or folders."""
        return self.config.args_source is pytest.Config.ArgsSource.ARGS

    @property
    def is_redacted(self) -> bool:
        """Whether prompts and answers stay out of what people are shown."""
        return "redact" in self.given and self.resolved.settings.redact

    @property
    def said(self) -> dict[str, str]:
        """What was given for this session, and not only by the ini file: text by field."""
        return {field: one.value for field, one in self.given.items() if one.source != INI}

    def choice(self, field: str) -> str:
        """An option's value as it was given, not yet checked; `auto` by default."""
        return self.given[field].value if field in self.given else "auto"

    # Settings

    @cached_property
    def resolved(self) -> SettingsWithSources:
        """Settings and their sources. Raises UsageError for a wrong value."""
        return self._make.resolved(self.config)

    @property
    def models(self) -> Models:
        """Both specs. Raises UsageError where they are missing."""
        settings = self.resolved.settings
        if settings.model_1 is None or settings.model_2 is None:
            raise pytest.UsageError(f"model_pair {NO_MODELS}")
        return Models(settings.model_1, settings.model_2)

    @property
    def number_bound(self) -> float | None:
        """The bound, where it was given as a number."""
        max_kl = self.resolved.settings.max_kl
        return None if max_kl == "auto" else max_kl

    def check(self) -> None:
        """Refuse a wrong value at once, where this session itself asks for something."""
        check_given_once(self.config)
        check_both_models(self.given)
        if self.said:
            _ = self.resolved
        if self.plan.action == "nothing" and self.plan.suites:
            raise pytest.UsageError(
                f"{self.shown(self.plan.suites[0])} is given, but --divergence-mode=off; drop one "
                "of them"
            )
        if self.plan.is_rewriting and (reason := self._reason_against_update()):
            raise pytest.UsageError(f"{BY_FIELD[str(self.plan.rewrites)].flag} {reason}")

    def require_models(self) -> None:
        """Raise UsageError where this session asks for a search, and no one names a model."""
        has_any = self.has_models or self.config.getini(PAIRS_INI)
        if self.plan.may_measure and self.plan.is_asked and not has_any:
            raise pytest.UsageError(f"a search {NO_MODELS}")

    @property
    def rewrites_by_ini(self) -> bool:
        """Whether only the ini file asks for suites to be rewritten."""
        return self.given[str(self.plan.rewrites)].source == INI

    @property
    def may_rewrite(self) -> bool:
        """Whether there can be a suite to rewrite, or someone who misses one."""
        return self.plan.is_rewriting and (self.is_used or not self.rewrites_by_ini)

    def _reason_against_update(self) -> str | None:
        settings = self.resolved.settings
        if is_ci():
            return (
                "rewrites suites, and this is CI (the environment variable CI is set): run it on "
                "your own machine, look at the diff, and commit that"
            )
        if self.plan.process != "alone":
            return "rewrites suites as a whole, so it cannot be shared among workers; leave out -n"
        if settings.update and settings.fill:
            return "and --divergence-fill contradict each other; give one of them"
        if settings.mode == "search" or self.choice("builtin_suite") == "on":
            return (
                "rewrites suites that are there, and this session searches; leave out "
                "--divergence-mode=search and --divergence-builtin-suite=on"
            )
        return None

    # Places

    @property
    def root(self) -> Path:
        """Where `.divergence/` goes: pytest's root folder, where it belongs to this project.

        pytest takes a model's folder behind `--model-2` for a test path when it looks for its root,
        before any plugin is asked; nothing may be written beside a stranger's model for that.
        """
        start, found = self.config.invocation_params.dir, self.config.rootpath
        is_ours = start == found or (found in start.parents and self.config.inipath is not None)
        return found if is_ours or self.has_paths else start

    @cached_property
    def own_suite(self) -> Path:
        """Where a search of this pair writes its suite."""
        return suite_path(self.root, self.models.reference, self.models.candidate)

    @property
    def joining_suite(self) -> Path | None:
        """The search's suite, where it joins this session and exists."""
        if self.told is not None:
            return self.told.suite
        if not self.plan.adds_own_suite:
            return None
        return self.own_suite if self.outcome or self.own_suite.is_file() else None

    def more_arguments(self) -> list[str]:
        """The search's suite as an argument of the session, unless a folder among them leads to it.

        Before pytest 9 a folder and a file inside of it, both given, collected the file alone.
        """
        suite = self.joining_suite
        if suite is None or any(path in suite.parents for path in self.arguments):
            return []
        return [str(suite)]

    def hides(self, path: Path) -> bool | None:
        """Whether to ignore a path of `.divergence/`: all but the suites that take part.

        None for paths elsewhere. The folder would be skipped as a hidden one, suites and all.
        """
        if FOLDER not in path.parts:
            return None
        own = self.joining_suite
        shown = [*self.plan.suites, *([own] if own else [])]
        return not any(path in (suite, *suite.parents[:2]) for suite in shown)

    def shown(self, path: Path) -> str:
        """A path as people can use it: from the folder that pytest was started in."""
        try:
            return os.path.relpath(path, self.config.invocation_params.dir)
        except ValueError:  # another drive
            return str(path)

    # The pair

    @cached_property
    def pairs(self) -> Pairs:
        """The pairs that this session asks for."""
        return self._make.pairs(self)

    def models_for(self, path: Path) -> Models | None:
        """The models that a suite is replayed on; None: no one names any. Raises UsageError.

        The command line and the environment come before `divergence_pairs`, and that before the
        ini file's one pair.
        """
        found = self.models_of_line(path)
        return self.models if found is None and self.has_models else found

    def models_of_line(self, path: Path) -> Models | None:
        """The models of the line of `divergence_pairs` that counts for a suite or a test's file.

        None where there is none, or where this session names a pair itself. Raises UsageError.
        """
        if self.plan.is_explicit or FOLDER in path.parts:
            return None
        return self._rules.models_for(path)

    @property
    def twins(self) -> set[tuple[str, str]]:
        """The specs of the pairs that were looked at so far and are one model twice."""
        return self.pairs.twins if "pairs" in vars(self) else set()

    def pair(self, models: Models | None = None) -> ModelPair:
        """The session's pair, or another one: then the one before makes room for it."""
        self.is_used = True
        return self.pairs.load(models or self.models)

    def pair_for(self, request: pytest.FixtureRequest, models: Models | None = None) -> ModelPair:
        """The pair that a running test asks for."""
        self.is_used = True
        return self.pairs.for_test(request, models or self.models)

    # The search

    @property
    def has_search(self) -> bool:
        """Whether this session has searched, or pytest-xdist's controller has for it."""
        return bool(self.outcome) or (self.told is not None and self.told.report_dir is not None)

    @property
    def has_whole_search(self) -> bool:
        """Whether a search of this session came to its end without errors."""
        report = self.report
        return report is not None and report.run.status == "complete" and not report.errors

    @property
    def is_read_back(self) -> bool:
        """Whether this session's search did nothing anew; False where there was none."""
        return bool(self.outcome) and self.outcome().is_cached

    def _search(self) -> SearchOutcome:
        self.is_used = True
        return self._make.outcome(self)


KEY = pytest.StashKey[DivergenceSession]()


def of(config: pytest.Config) -> DivergenceSession:
    """The state of a session."""
    return config.stash[KEY]


def is_ci() -> bool:
    """Whether this is a CI service: nobody watches, and nothing that is written is kept."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")
