"""The project that the command is started in: pytest's configuration, and what searches left there.

Knows pytest's way into a session and out of it; does not know what a command does in between.
Imports nothing heavy: `promote`, `diff` and their like are done before torch would be there.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import pytest

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.file_names import (
    FOLDER,
    LATEST,
    REPORTS,
    SUITE_SUFFIX,
    SUITES,
    from_here,
)
from pytest_divergence.plugin import _compat, session_of
from pytest_divergence.plugin.options import BY_FIELD, MODELS, located_value
from pytest_divergence.plugin.session import DivergenceSession

PLUGIN = ("-p", "divergence")
"""Loads the plugin also where plugins are not loaded by themselves."""

Result = TypeVar("Result")


def pytest_words(given: Namespace) -> list[str]:
    """The settings that the command line gives, as arguments of pytest.

    Behind `=`: pytest takes a folder that stands alone for a test path.
    """
    options = (BY_FIELD[field] for field in given.fields if getattr(given, field) is not None)
    return [
        one.flag if one.is_switch else f"{one.flag}={getattr(given, one.field)}" for one in options
    ]


def in_project(arguments: Sequence[str], act: Callable[[pytest.Config], Result]) -> Result:
    """What `act` returns, given the configuration that pytest makes of `arguments`.

    stdin is pytest's meanwhile. Raises what `act` raises, a `pytest.UsageError` as `SettingsError`,
    and `SettingsError` where pytest has said why it cannot set itself up: a wrong ini file, say, or
    a conftest.py that fails.
    """
    instead = _Instead(act)
    pytest.main([*PLUGIN, *arguments], plugins=[instead])
    if isinstance(instead.error, pytest.UsageError):
        raise SettingsError(str(instead.error)) from instead.error
    if instead.error is not None:
        raise instead.error
    if not instead.results:
        raise SettingsError("pytest cannot set itself up in this folder; it says why above")
    return instead.results[0]


class _Instead(Generic[Result]):
    """A plugin that acts instead of the session."""

    def __init__(self, act: Callable[[pytest.Config], Result]) -> None:
        self._act = act
        self.results: list[Result] = []
        self.error: BaseException | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        try:
            self.results.append(self._act(config))
        except BaseException as error:  # pytest would swallow some, and print others its own way
            self.error = error
        return 0


def begun(config: pytest.Config) -> DivergenceSession:
    """The session, as it begins: whoever prepares something for our hooks does it now."""
    _compat.configure(config)
    # Its lines go to stdout, which is the command's own.
    config.pluginmanager.unregister(name="terminalreporter")
    return session_of(config)


def measuring(config: pytest.Config, say: Callable[[str], None]) -> DivergenceSession:
    """The session of a command that measures a pair, as it begins; `say` shows its lines.

    Raises SettingsError where a model is not named, UsageError for a wrong setting.
    """
    session = begun(config)
    require_models(session)
    session.say = say
    return session


def require_models(session: DivergenceSession) -> None:
    """Raise SettingsError where a model is not named."""
    for option in (BY_FIELD[field] for field in MODELS if field not in session.given):
        raise SettingsError(
            f"{option.alias} is missing; give it, {option.variable}, or {option.ini} in the ini "
            "file"
        )


class Places(NamedTuple):
    """The folders of a project; none of them is made."""

    root: Path
    """Where `.divergence` is, or would be."""
    own: Path
    """`.divergence`, from here."""
    reports: Path
    """Where searches leave their reports, from here."""


def places_of(config: pytest.Config) -> Places:
    """The places, as the ini file and the environment have them; checks nothing."""
    session = session_of(config)
    own, reports = session.root / FOLDER, session.root / FOLDER / REPORTS
    if asked := session.given.get("report_dir"):
        reports = config.invocation_params.dir / located_value(config, "report_dir", asked)
    return Places(session.root, from_here(own), from_here(reports))


def root() -> Path:
    """The project's root folder. Raises SettingsError."""
    return in_project([], places_of).root


def run_meant(given: Path) -> Path:
    """Return the project's pointer to its last run for `latest`, any other path as it is."""
    if given != Path(LATEST) or given.is_dir():
        return given
    return in_project([], places_of).reports / LATEST


def suites_meant(given: Sequence[Path]) -> list[Path]:
    """The suites that are given, those of given folders, or else those that searches left.

    Raises SettingsError where none is given and there are none.
    """
    if given:
        return [
            suite for path in given for suite in (_suites_in(path) if path.is_dir() else [path])
        ]
    folder = in_project([], places_of).own / SUITES
    if suites := _suites_in(folder):
        return suites
    raise SettingsError(f"there is no suite in {folder}; search first, or name one")


def _suites_in(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUITE_SUFFIX}"))
