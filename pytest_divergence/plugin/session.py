"""One pytest session: its plan, its options, its models, and its findings.

The plan is decided once, when the session starts: a `SessionPlan`. Everything else is made on first
use and kept: a session loads a pair once and searches once. pytest loads this in every session, so
it imports nothing heavy; heavy parts come from the `Makers` that are passed in.
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
"""Options of pytest that only list or plan; no search starts with any of them."""
RUNNER = "GITHUB_ACTIONS"
"""The variable that is `true` on a GitHub runner."""
NO_MODELS = "needs two models; give --model-1 and --model-2"


@dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """The actions of a session, its process, and its suites."""

    action: Action
    """The action, if something of ours is asked for."""
    process: Process
    suites: tuple[Path, ...]
    """The suites among its arguments."""
    is_asked: bool
    """Whether this session, not only the ini file, names a model or asks for a search."""
    is_explicit: bool
    """Whether this session, not only the ini file, names a model."""
    adds_own_suite: bool
    """Whether the suite of the pair's search joins without being named."""
    acts_first: bool
    """Whether it searches, or looks for suites to replay, before collection."""
    rewrites: Rewriting | None
    """The way in which suites change, or would if the session did not only list."""
    is_annotating: bool
    """Whether failures become annotations on GitHub."""

    @property
    def is_rewriting(self) -> bool:
        """Whether suites are measured again and written."""
        return self.action in ("update", "fill")

    @property
    def may_measure(self) -> bool:
        """Whether models may be used at all."""
        return self.action not in ("nothing", "list")


@dataclass(frozen=True)
class Makers:
    """Functions that make the heavy parts of a session, each on first use."""

    resolved: Callable[[pytest.Config], SettingsWithSources]
    pairs: Callable[[DivergenceSession], Pairs]
    outcome: Callable[[DivergenceSession], SearchOutcome]


class DivergenceSession:
    """The state that the hooks, items and fixtures of one pytest session share."""

    def __init__(self, config: pytest.Config, make: Makers) -> None:
        """Read the options; nothing is checked, imported or written yet."""
        self.config = config
        self.given = given(config)
        start = config.invocation_params.dir
        self.arguments = [start / str(word).partition("::")[0] for word in config.args]
        """Files and folders that the session was started with, before our own suite joins."""
        self.told = xdist.told_by_controller(config)
        """The message of pytest-xdist's controller; None if this is not a worker."""
        self.is_used = False
        """Whether a test, a suite or a search asked for the models."""
        self.error: pytest.UsageError | None = None
        """The error that must end the session, if it was raised inside collection."""
        self.report: Report | None = None
        """The search's report, even if the search was stopped."""
        self.report_dir: Path | None = None
        self.rewritten: list[str] = []
        """Lines of the summary on suites that were measured again."""
        self.say: Callable[[str], None] = partial(announce, config)
        """Shows people a line, during a search on its progress display."""
        self.outcome: Once[SearchOutcome] = Once(self._search)
        self._rules = PairRules(config)
        self._make = make

    # The plan

    @cached_property
    def plan(self) -> SessionPlan:
        """The plan, decided when the session starts. Raises UsageError for a wrong value."""
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
        is_eager = is_asked and not self.has_paths
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
        return next((field for field in asked if getattr(self.resolved.settings, field)), None)

    def _action(self, rewrites: Rewriting | None, suites: tuple[Path, ...]) -> Action:
        """Return the action; mode `auto` replays suites that are named, and always in CI."""
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
        """Whether prompts and answers are kept out of all that people are shown."""
        return "redact" in self.given and self.resolved.settings.redact

    @property
    def said(self) -> dict[str, str]:
        """The values given for this session, not only by the ini file: text by field."""
        return {field: raw.value for field, raw in self.given.items() if raw.source != INI}

    def choice(self, field: str) -> str:
        """Return an option's value as it was given, not yet checked; `auto` by default."""
        return self.given[field].value if field in self.given else "auto"

    # Settings

    @cached_property
    def resolved(self) -> SettingsWithSources:
        """Settings and their sources. Raises UsageError for a wrong value."""
        return self._make.resolved(self.config)

    @property
    def models(self) -> Models:
        """Both specs. Raises UsageError if one is missing."""
        settings = self.resolved.settings
        if settings.model_1 is None or settings.model_2 is None:
            raise pytest.UsageError(f"model_pair {NO_MODELS}")
        return Models(settings.model_1, settings.model_2)

    @property
    def number_bound(self) -> float | None:
        """The bound, if it was given as a number."""
        max_kl = self.resolved.settings.max_kl
        return None if max_kl == "auto" else max_kl

    def check(self) -> None:
        """Refuse a wrong value at once, if this session itself asks for something."""
        check_given_once(self.config)
        check_both_models(self.given)
        if self.said:
            _ = self.resolved
        if self.plan.action == "nothing" and self.plan.suites:
            raise pytest.UsageError(
                f"{self.shown(self.plan.suites[0])} is given with --divergence-mode=off; leave one "
                "of them out"
            )
        if self.plan.is_rewriting and (reason := self._reason_against_update()):
            raise pytest.UsageError(f"{BY_FIELD[str(self.plan.rewrites)].flag} {reason}")

    def require_models(self) -> None:
        """Raise UsageError if this session asks for a search and no models are named."""
        has_any = self.has_models or self.config.getini(PAIRS_INI)
        if self.plan.may_measure and self.plan.is_asked and not has_any:
            raise pytest.UsageError(f"a search {NO_MODELS}")

    @property
    def rewrites_by_ini(self) -> bool:
        """Whether only the ini file asks for suites to be rewritten."""
        return self.given[str(self.plan.rewrites)].source == INI

    @property
    def may_rewrite(self) -> bool:
        """Whether to rewrite suites, or to say that there are none."""
        return self.plan.is_rewriting and (self.is_used or not self.rewrites_by_ini)

    def _reason_against_update(self) -> str | None:
        settings = self.resolved.settings
        if is_ci():
            return (
                "rewrites suites, and this is CI (the environment variable CI is set); run it on "
                "your own machine, check the diff, and commit it"
            )
        if self.plan.process != "alone":
            return "rewrites whole suites, so it cannot be split among workers; leave out -n"
        if settings.update and settings.fill:
            return "and --divergence-fill contradict each other; give one of them"
        if settings.mode == "search" or self.choice("builtin_suite") == "on":
            return (
                "rewrites existing suites, but this session searches; leave out "
                "--divergence-mode=search and --divergence-builtin-suite=on"
            )
        return None

    # Places

    @property
    def root(self) -> Path:
        """The folder for `.divergence/`: pytest's root folder, if that belongs to this project.

        When pytest looks for its root, before it calls any plugin, it mistakes a model's folder
        after `--model-2` for a test path. Nothing may be written beside a stranger's model.
        """
        start, found = self.config.invocation_params.dir, self.config.rootpath
        is_ours = start == found or (found in start.parents and self.config.inipath is not None)
        return found if is_ours or self.has_paths else start

    @cached_property
    def own_suite(self) -> Path:
        """The file to which a search of this pair writes its suite."""
        return suite_path(self.root, self.models.reference, self.models.candidate)

    @property
    def joining_suite(self) -> Path | None:
        """The search's suite, if it joins this session and exists."""
        if self.told is not None:
            return self.told.suite
        if not self.plan.adds_own_suite:
            return None
        return self.own_suite if self.outcome or self.own_suite.is_file() else None

    def more_arguments(self) -> list[str]:
        """Return the search's suite as an argument, unless a folder among the arguments has it.

        Before pytest 9 a folder and a file in it, both given, collected the file alone.
        """
        suite = self.joining_suite
        if suite is None or any(path in suite.parents for path in self.arguments):
            return []
        return [str(suite)]

    def is_own(self, path: Path) -> bool:
        """Whether a path is in the project's `.divergence/`; the project may be in another one."""
        if FOLDER not in path.parts:
            return False
        for root in (self.root, self.config.rootpath):
            if path.is_relative_to(root):
                return FOLDER in path.relative_to(root).parts
        return True

    def hides(self, path: Path) -> bool | None:
        """Whether to ignore a path in `.divergence/`: all but the suites that take part.

        None for other paths. pytest would skip the folder as hidden, suites included.
        """
        if not self.is_own(path):
            return None
        own = self.joining_suite
        shown = [*self.plan.suites, *([own] if own else [])]
        return not any(path in (suite, *suite.parents[:2]) for suite in shown)

    def shown(self, path: Path) -> str:
        """Return a path that people can use: relative to the folder in which pytest was started."""
        try:
            return os.path.relpath(path, self.config.invocation_params.dir)
        except ValueError:  # another drive
            return str(path)

    def file_of(self, nodeid: str) -> Path:
        """Return the file of a test's or suite's node id.

        Node ids are relative to pytest's root folder, but where pytest takes a model's folder
        elsewhere for that (see `root`), to the folder in which it was started.
        """
        start, found = self.config.invocation_params.dir, self.config.rootpath
        is_below = self.has_paths or start.is_relative_to(found)
        return (found if is_below else start) / nodeid.partition("::")[0]

    # The pair

    @cached_property
    def pairs(self) -> Pairs:
        """The pairs that this session asks for."""
        return self._make.pairs(self)

    def models_for(self, path: Path) -> Models | None:
        """Return the models to replay a suite on; None: none are named. Raises UsageError.

        The command line and the environment override `divergence_pairs`, which overrides the ini
        file's single pair.
        """
        found = self.models_of_line(path)
        return self.models if found is None and self.has_models else found

    def models_of_line(self, path: Path) -> Models | None:
        """Return the models of the first line of `divergence_pairs` that matches a file.

        None if no line matches, or if this session names a pair itself. Raises UsageError.
        """
        if self.plan.is_explicit or self.is_own(path):
            return None
        return self._rules.models_for(path)

    @property
    def twins(self) -> set[tuple[str, str]]:
        """The specs of each pair now known to be one model twice."""
        return self.pairs.twins if "pairs" in vars(self) else set()

    def pair(self, models: Models | None = None) -> ModelPair:
        """Return the session's pair, or another one, for which the one in memory makes room."""
        self.is_used = True
        return self.pairs.load(models or self.models)

    def pair_for(self, request: pytest.FixtureRequest, models: Models | None = None) -> ModelPair:
        """Return the pair that a running test asks for."""
        self.is_used = True
        return self.pairs.for_test(request, models or self.models)

    # The search

    @property
    def has_search(self) -> bool:
        """Whether this session, or its pytest-xdist controller, has searched."""
        return bool(self.outcome) or (self.told is not None and self.told.report_dir is not None)

    @property
    def has_whole_search(self) -> bool:
        """Whether a search of this session finished without errors."""
        report = self.report
        return report is not None and report.run.status == "complete" and not report.errors

    @property
    def is_read_back(self) -> bool:
        """Whether this session's search was only read back; False if there was no search."""
        return bool(self.outcome) and self.outcome().is_cached

    def _search(self) -> SearchOutcome:
        self.is_used = True
        return self._make.outcome(self)


KEY = pytest.StashKey[DivergenceSession]()


def of(config: pytest.Config) -> DivergenceSession:
    """Return the state of a session."""
    return config.stash[KEY]


def is_ci() -> bool:
    """Whether this is a CI service: nobody watches, and no file is kept."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")
