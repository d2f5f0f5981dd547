"""Where pytest, started in this folder, leaves what it finds: what commands mean by default."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import pytest

if TYPE_CHECKING:
    from pytest_divergence.plugin.progress_bar import PhaseLines
    from pytest_divergence.plugin.session import DivergenceSession


LATEST = "latest"

PLUGIN = ("-p", "divergence")
"""Loads the plugin also where plugins are not loaded by themselves."""
Result = TypeVar("Result")

PATTERN = "*.divergence.jsonl"


class Places(NamedTuple):
    """The folders of the project that this folder belongs to; none of them is made."""

    root: Path
    """Where `.divergence` is, or would be."""
    suites: Path
    """Where searches leave their suites, from here."""
    reports: Path
    """Where they leave their reports, from here."""


def places() -> Places:
    """The places, as the ini file and the environment have them. Raises SettingsError."""

    return in_project([], _places)


def root() -> Path:
    """The project's root folder. Raises SettingsError."""
    return places().root


def run_meant(given: Path) -> Path:
    """The folder of the project's last run for `latest`; any other path as it is.

    Raises SettingsError where there is no run yet.
    """
    from pytest_divergence.core.errors import SettingsError
    from pytest_divergence.core.files import latest_report_dir

    if given != Path(LATEST) or given.is_dir():
        return given
    reports = places().reports
    folder = latest_report_dir(reports)
    if folder is None:
        raise SettingsError(f"{LATEST}: there is no run yet in {reports}; name a suite")
    return folder


def _places(config: pytest.Config) -> Places:
    from pytest_divergence.core.file_names import from_here
    from pytest_divergence.plugin import session_of
    from pytest_divergence.plugin.settings_sources import report_dir

    session = session_of(config)
    own = session.root / ".divergence"
    reports = report_dir(config) or own / "reports"
    return Places(session.root, from_here(own / "suites"), from_here(reports))


def in_project(arguments: Sequence[str], act: Callable[[pytest.Config], Result]) -> Result:
    """What `act` returns, given the configuration that pytest makes of `arguments`.

    stdin is pytest's meanwhile. Raises what `act` raises, a `pytest.UsageError` as `SettingsError`,
    and `SettingsError` where pytest has said why it cannot set itself up: a wrong ini file, say, or
    a conftest.py that fails.
    """
    from pytest_divergence.core.errors import SettingsError

    instead = _Instead(act)
    pytest.main([*PLUGIN, *arguments], plugins=[instead])
    if isinstance(instead.error, pytest.UsageError):
        raise SettingsError(str(instead.error)) from instead.error
    if instead.error is not None:
        raise instead.error
    if not instead.results:
        raise SettingsError("pytest cannot set itself up in this folder; it says why above")
    return instead.results[0]


def configure(config: pytest.Config) -> None:
    """As a session begins: whoever prepares something for our hooks does it now."""
    config._do_configure()
    # Its lines go to stdout, which is the command's own.
    config.pluginmanager.unregister(name="terminalreporter")


def measuring(config: pytest.Config, listener: PhaseLines) -> DivergenceSession:
    """The session of a command that measures a pair; its lines are the listener's.

    Raises SettingsError where a model is not named, UsageError for a wrong setting.
    """
    from pytest_divergence.plugin.session import of

    configure(config)
    session = of(config)
    require_models(session)
    session.say = listener.say
    return session


def require_models(session: DivergenceSession) -> None:
    """Raise SettingsError where a model is not named."""
    from pytest_divergence.core.errors import SettingsError
    from pytest_divergence.plugin.options import BY_FIELD, MODELS

    for option in (BY_FIELD[field] for field in MODELS if field not in session.given):
        raise SettingsError(
            f"{option.alias} is missing; give it, {option.variable}, or {option.ini} in the ini "
            "file"
        )


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


def add_suites(parser: ArgumentParser) -> None:
    """The argument that `suites_of` reads."""
    parser.add_argument(
        "suites",
        metavar="SUITE",
        nargs="*",
        type=Path,
        help="suite or folder of suites (default: those that searches left in the project's "
        ".divergence/suites)",
    )


def suites_of(given: Sequence[Path]) -> list[Path]:
    """The suites that are given, those of given folders, or else those that searches left.

    Raises SettingsError where none is given and there are none.
    """
    if not given:
        return _found()
    suites: list[Path] = []
    for path in given:
        suites += sorted(path.glob(PATTERN)) if path.is_dir() else [path]
    return suites


def _found() -> list[Path]:
    from pytest_divergence.core.errors import SettingsError

    folder = places().suites
    if suites := sorted(folder.glob(PATTERN)):
        return suites
    raise SettingsError(f"there is no suite in {folder}; search first, or name one")


def suites_below(folder: Path) -> list[Path]:
    """The suites of a folder and of the folders in it, but for hidden ones."""
    found = sorted(folder.rglob(PATTERN))
    return [one for one in found if not _is_hidden(one.relative_to(folder))]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
