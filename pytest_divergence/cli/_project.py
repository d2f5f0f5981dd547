"""The current project: pytest's configuration, and the files that searches left there.

Starts and ends a pytest session; does not know what a command does in between. Imports nothing
heavy: `promote` and `diff` finish before torch would be loaded.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import pytest

from pytest_divergence import cli
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.file_names import (
    FOLDER,
    LATEST,
    REPORTS,
    SUITES,
    from_here,
    is_on_hub,
)
from pytest_divergence.core.suites import suites_below
from pytest_divergence.plugin import _compat, session_of
from pytest_divergence.plugin.model_pairs import refuse_served
from pytest_divergence.plugin.options import BY_FIELD, MODELS, located_value
from pytest_divergence.plugin.session import DivergenceSession

PLUGIN = ("-p", "divergence")
"""Arguments that load the plugin even where pytest loads no plugins on its own."""

Result = TypeVar("Result")


def pytest_words(given: Namespace) -> list[str]:
    """Return the settings on the command line as arguments of pytest.

    Values follow `=`: pytest mistakes a bare existing folder for a test path.
    """
    words = []
    for option in (BY_FIELD[field] for field in given.fields):
        value = getattr(given, option.field)
        for each in value if isinstance(value, list) else [value]:
            if each is not None:
                words.append(option.flag if option.is_switch else f"{option.flag}={each}")
    return words


def in_project(arguments: Sequence[str], act: Callable[[pytest.Config], Result]) -> Result:
    """Call `act` with the configuration that pytest makes of `arguments`; return its result.

    Meanwhile pytest owns stdin. Raises what `act` raises, with `SettingsError` for a
    `pytest.UsageError`, and `SettingsError` after pytest has printed why it cannot start: a wrong
    ini file, for example, or a conftest.py that fails.
    """
    instead = _Instead(act)
    pytest.main([*PLUGIN, *arguments], plugins=[instead])
    if isinstance(instead.error, pytest.UsageError):
        raise SettingsError(str(instead.error)) from instead.error
    if instead.error is not None:
        raise instead.error
    if not instead.results:
        raise SettingsError("pytest cannot start in this folder; see its message above")
    return instead.results[0]


class _Instead(Generic[Result]):
    """A plugin that calls a function instead of running the session."""

    def __init__(self, act: Callable[[pytest.Config], Result]) -> None:
        self._act = act
        self.results: list[Result] = []
        self.error: BaseException | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        try:
            self.results.append(self._act(config))
        except BaseException as error:  # pytest would swallow or print it
            self.error = error
        return 0


def begun(config: pytest.Config) -> DivergenceSession:
    """Start the session and return it; other plugins can now prepare for our hooks."""
    _compat.configure(config)
    # It would print to stdout, which belongs to the command.
    config.pluginmanager.unregister(name="terminalreporter")
    return session_of(config)


def measuring(
    config: pytest.Config, say: Callable[[str], None], *, takes_served: bool = False
) -> DivergenceSession:
    """Start the session of a command that measures a pair; `say` shows its lines.

    Raises SettingsError if a model is missing, UsageError for a wrong setting, or for a served
    model unless it `takes_served` ones.
    """
    session = begun(config)
    require_models(session)
    if not takes_served:
        refuse_served(session.models, config, "this command")
    session.say = say
    return session


def require_models(session: DivergenceSession, fields: Sequence[str] = MODELS) -> None:
    """Raise SettingsError if a model is missing."""
    for option in (BY_FIELD[field] for field in fields if field not in session.given):
        raise SettingsError(
            f"{option.alias} is missing; set it, {option.variable}, or {option.ini} in the ini file"
        )


class Places(NamedTuple):
    """The folders of a project; creates none."""

    root: Path
    """The project's root folder, the parent of `.divergence`."""
    own: Path
    """`.divergence`, relative to the working directory."""
    reports: Path
    """The folder of reports, relative to the working directory."""


def places_of(config: pytest.Config) -> Places:
    """Return the folders by the ini file and the environment; checks nothing."""
    session = session_of(config)
    own, reports = session.root / FOLDER, session.root / FOLDER / REPORTS
    if asked := session.given.get("report_dir"):
        reports = config.invocation_params.dir / located_value(config, "report_dir", asked)
    return Places(session.root, from_here(own), from_here(reports))


def root() -> Path:
    """Return the project's root folder. Raises SettingsError."""
    return in_project([], places_of).root


def run_meant(given: Path) -> Path:
    """Return the link to the project's last run for `latest`, the copy of a suite on the Hub.

    Any other path is returned as it is.
    """
    if is_on_hub(given):
        suite: Path = cli.part("_hub").local_suite(given)
        return suite
    if given != Path(LATEST) or given.is_dir():
        return given
    return in_project([], places_of).reports / LATEST


def suites_meant(given: Sequence[Path]) -> list[Path]:
    """Return the given suites and those below given folders, or by default those of searches.

    Raises SettingsError if there are none.
    """
    if given:
        return [
            suite
            for path in given
            for suite in (
                cli.part("_hub").local_suites(path)
                if is_on_hub(path)
                else suites_below(path)
                if path.is_dir()
                else [path]
            )
        ]
    folder = in_project([], places_of).own / SUITES
    if suites := suites_below(folder):
        return suites
    raise SettingsError(f"there is no suite in {folder}; run a search, or name a suite")
