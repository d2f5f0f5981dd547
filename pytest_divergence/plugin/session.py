"""One pytest session: what it was given, its settings, its models, and what it has found.

Everything is made on first use and kept: a session loads a pair once and searches once. Imports
nothing heavy before that. Does not know how it searches (`pytest_divergence.plugin.search`), nor
how an error reaches people (`pytest_divergence.plugin.usage_errors`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pytest

from pytest_divergence.plugin import _compat, options, settings_sources
from pytest_divergence.plugin.model_pairs import Pairs
from pytest_divergence.plugin.options import INI, SUITE_SUFFIX, Models
from pytest_divergence.plugin.xdist import SUITE_KEY

if TYPE_CHECKING:
    from pytest_divergence.core.files import DivergenceFolder
    from pytest_divergence.core.report import Report
    from pytest_divergence.discovery.run import SearchOutcome
    from pytest_divergence.models.fingerprints import ModelIdentity
    from pytest_divergence.models.pair import ModelPair


REPORT_KEY = "divergence_report_dir"
"""Under which pytest-xdist's controller and workers tell each other where a search's report is."""

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
FOLDER = ".divergence"
"""Where a search of the session's own pair leaves what it finds."""
NO_MODELS = "needs two models; give --model-1 and --model-2"

T = TypeVar("T")


class DivergenceSession:
    """What the hooks, items and fixtures of one pytest session share."""

    def __init__(self, config: pytest.Config) -> None:
        """Read what was given; nothing is checked, imported or written yet."""
        self.config = config
        self.given = options.given(config)
        start = config.invocation_params.dir
        self.arguments = [start / str(one).partition("::")[0] for one in config.args]
        """Files and folders that the session was asked for, before our own suite joins."""
        self.is_used = False
        """Whether a test, a suite or a search asked for the models."""
        self.error: pytest.UsageError | None = None
        """What must end the session, where it was raised inside of collection."""
        self.report: Report | None = None
        """The search's, also where it was stopped."""
        self.report_dir: Path | None = None
        self.say: Callable[[str], None] = partial(_compat.announce, config)
        """Shows people one line; while a search runs, on its display."""
        self.pairs = Pairs(config, lambda: self.resolved.settings, lambda text: self.say(text))
        self.outcome: Once[SearchOutcome] = Once(self._search)

    # What kind of session this is

    @property
    def worker_input(self) -> dict[str, Any] | None:
        """What pytest-xdist's controller sent; None where this is not a worker."""
        return getattr(self.config, "workerinput", None)

    @property
    def is_controller(self) -> bool:
        """Whether pytest-xdist's workers run the tests; known from `pytest_sessionstart` on."""
        return self.config.pluginmanager.hasplugin("dsession")

    @property
    def is_listing(self) -> bool:
        """Whether pytest only shows something, so that nothing may be searched or loaded."""
        return any(getattr(self.config.option, name, False) for name in LISTINGS)

    @property
    def has_models(self) -> bool:
        """Whether both models are named."""
        return all(field in self.given for field in options.MODELS)

    @property
    def is_explicit(self) -> bool:
        """Whether this session, not only the project's ini file, names a model."""
        sources = {self.given[field].source for field in options.MODELS if field in self.given}
        return bool(sources - {INI})

    @property
    def is_asked(self) -> bool:
        """Whether this session, not only the ini file, names a model or asks for a search."""
        said = {field: one.value for field, one in self.given.items() if one.source != INI}
        return self.is_explicit or said.get("mode") == "search"

    @property
    def has_paths(self) -> bool:
        """Whether the command line names files or folders."""
        return self.config.args_source is pytest.Config.ArgsSource.ARGS

    @property
    def is_off(self) -> bool:
        """Whether the user switched the plugin off."""
        return self.choice("mode") == "off"

    @property
    def updates(self) -> str | None:
        """`update` or `fill`, where suites are measured afresh and rewritten; else None."""
        asked = (field for field in ("update", "fill") if field in self.given)
        return next((one for one in asked if getattr(self.resolved.settings, one)), None)

    @property
    def is_redacted(self) -> bool:
        """Whether prompts and answers stay out of what people are shown."""
        return "redact" in self.given and self.resolved.settings.redact

    def choice(self, field: str) -> str:
        """An option's value as it was given, not yet checked; `auto` by default."""
        return self.given[field].value if field in self.given else "auto"

    # Settings

    @cached_property
    def resolved(self) -> settings_sources.Resolved:
        """Settings and their sources. Raises UsageError for a wrong value."""
        return settings_sources.resolve(self.config)

    @property
    def models(self) -> tuple[str, str]:
        """Both specs. Raises UsageError where they are missing."""
        settings = self.resolved.settings
        if settings.model_1 is None or settings.model_2 is None:
            raise pytest.UsageError(f"model_pair {NO_MODELS}")
        return settings.model_1, settings.model_2

    @property
    def number_bound(self) -> float | None:
        """The bound, where it was given as a number."""
        max_kl = self.resolved.settings.max_kl
        return None if max_kl == "auto" else max_kl

    def check(self) -> None:
        """Refuse a wrong value at once, where this session itself asks for something."""
        options.check_given_once(self.config)
        options.check_both_models(self.given)
        if any(one.source != INI for one in self.given.values()):
            _ = self.resolved
        suites = [path for path in self.arguments if path.name.endswith(options.SUITE_SUFFIX)]
        if self.is_off and suites:
            raise pytest.UsageError(
                f"{self.shown(suites[0])} is given, but --divergence-mode=off; drop one of them"
            )

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

    @property
    def folder(self) -> DivergenceFolder:
        """`.divergence/` of this session, with reports where they were asked for."""
        from pytest_divergence.core.files import DivergenceFolder

        report_dir = self.resolved.settings.report_dir
        return DivergenceFolder(self.root, report_dir=Path(report_dir) if report_dir else None)

    @cached_property
    def own_suite(self) -> Path:
        """Where a search of this pair writes its suite."""
        from pytest_divergence.core.file_names import suite_path

        return suite_path(self.root, *self.models)

    def shown(self, path: Path) -> str:
        """A path as people can use it: from the folder that pytest was started in."""
        try:
            return os.path.relpath(path, self.config.invocation_params.dir)
        except ValueError:  # another drive
            return str(path)

    # The pair

    def models_for(self, path: Path) -> Models | None:
        """The models that a suite is replayed on; None: no one names any. Raises UsageError.

        The command line and the environment come before `divergence_pairs`, and that before the
        ini file's one pair.
        """
        found = self.models_of_line(path)
        return Models(*self.models) if found is None and self.has_models else found

    def models_of_line(self, path: Path) -> Models | None:
        """The models of the line of `divergence_pairs` that counts for a suite or a test's file.

        None where there is none, or where this session names a pair itself. Raises UsageError.
        """
        if self.is_explicit or FOLDER in path.parts:
            return None
        return self.pairs.rule_for(path)

    def pair(self, models: Models | None = None) -> ModelPair:
        """The session's pair, or another one: then the one before makes room for it."""
        self.is_used = True
        return self.pairs.load(models or Models(*self.models))

    def pair_for(self, request: pytest.FixtureRequest, models: Models | None = None) -> ModelPair:
        """The same for a running test."""
        self.is_used = True
        return self.pairs.for_test(request, models or Models(*self.models))

    def identities(self, models: Models | None = None) -> tuple[ModelIdentity, ModelIdentity]:
        """What the models of the session's pair, or of another one, are."""
        return self.pairs.identities(models or Models(*self.models))

    # The search

    @property
    def has_search(self) -> bool:
        """Whether this session has searched, or pytest-xdist's controller has for it."""
        return bool(self.outcome) or REPORT_KEY in (self.worker_input or {})

    @property
    def is_read_back(self) -> bool:
        """Whether this session's search did nothing anew; False where there was none."""
        return bool(self.outcome) and self.outcome().is_cached

    def _search(self) -> SearchOutcome:
        from pytest_divergence.plugin.search import outcome_of

        self.is_used = True
        return outcome_of(self)


KEY = pytest.StashKey[DivergenceSession]()


def of(config: pytest.Config) -> DivergenceSession:
    """The state of a session, made on first use."""
    if KEY not in config.stash:
        config.stash[KEY] = DivergenceSession(config)
    return config.stash[KEY]


class Once(Generic[T]):
    """A value computed on first use. A failure is kept too, and raised again."""

    def __init__(self, compute: Callable[[], T]) -> None:
        """Call `compute` later."""
        self._compute = compute
        self._values: list[T] = []
        self._error: Exception | None = None

    def __bool__(self) -> bool:
        """Whether there is a value."""
        return bool(self._values)

    def __call__(self) -> T:
        """The value; raises what computing it raised."""
        if self._error is not None:
            raise self._error
        if not self._values:
            try:
                self._values.append(self._compute())
            except Exception as error:
                self._error = error
                raise
        return self._values[0]


def named_suites(session: DivergenceSession) -> list[Path]:
    """The suites among the session's arguments."""
    return [path for path in session.arguments if path.name.endswith(SUITE_SUFFIX)]


def mode(session: DivergenceSession) -> str:
    """`search`, `replay` or `off`; `auto` replays given suites, and always in CI."""
    asked = session.resolved.settings.mode
    if asked != "auto":
        return asked
    is_replay = is_ci() or named_suites(session) or session.updates
    return "replay" if is_replay else "search"


def is_ci() -> bool:
    """Whether this is a CI service: nobody watches, and nothing that is written is kept."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def adds_own_suite(session: DivergenceSession) -> bool:
    """Whether the search's cases join the session without being named."""
    choice = session.choice("builtin_suite")
    if not session.has_models or session.is_off or choice == "off":
        return False
    is_ours = session.is_asked and not session.has_paths and not session.updates
    return choice == "on" or is_ours


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
