"""One pytest session: what it was given, its settings, its models, and what it has found.

Everything is made on first use and kept: a session loads a pair once and searches once. Imports
nothing heavy before that. Does not know how it searches (`pytest_divergence.session_search`), nor
how an error reaches people (`pytest_divergence.failing`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence import option_values, options, progress_display
from pytest_divergence.once import Once
from pytest_divergence.option_values import INI
from pytest_divergence.pairs import Models, Pairs

if TYPE_CHECKING:
    from pytest_divergence.core.report import Report
    from pytest_divergence.core.store import DivergenceFolder
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


class DivergenceSession:
    """What the hooks, items and fixtures of one pytest session share."""

    def __init__(self, config: pytest.Config) -> None:
        """Read what was given; nothing is checked, imported or written yet."""
        self.config = config
        self.given = option_values.given(config)
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
        self.say: Callable[[str], None] = partial(progress_display.announce, config)
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
    def resolved(self) -> option_values.Resolved:
        """Settings and their sources. Raises UsageError for a wrong value."""
        return option_values.resolve(self.config)

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
        option_values.check_given_once(self.config)
        option_values.check_both_models(self.given)
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
        from pytest_divergence.core.store import DivergenceFolder

        report_dir = self.resolved.settings.report_dir
        return DivergenceFolder(self.root, report_dir=Path(report_dir) if report_dir else None)

    @cached_property
    def own_suite(self) -> Path:
        """Where a search of this pair writes its suite."""
        from pytest_divergence.core.naming import suite_path

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
        from pytest_divergence.session_search import outcome_of

        self.is_used = True
        return outcome_of(self)


KEY = pytest.StashKey[DivergenceSession]()


def of(config: pytest.Config) -> DivergenceSession:
    """The state of a session, made on first use."""
    if KEY not in config.stash:
        config.stash[KEY] = DivergenceSession(config)
    return config.stash[KEY]
