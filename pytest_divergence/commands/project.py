"""A command inside of a project: its ini file, conftest.py and plugins hold as they do for pytest.

pytest sets itself up, and then the command takes the place of the session: nothing is collected,
and no test runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import pytest

if TYPE_CHECKING:
    from pytest_divergence.commands.listening import PhaseLines
    from pytest_divergence.session import DivergenceSession

PLUGIN = ("-p", "divergence")
"""Loads the plugin also where plugins are not loaded by themselves."""
Result = TypeVar("Result")


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
    from pytest_divergence.session import of

    configure(config)
    session = of(config)
    require_models(session)
    session.say = listener.say
    return session


def require_models(session: DivergenceSession) -> None:
    """Raise SettingsError where a model is not named."""
    from pytest_divergence.core.errors import SettingsError
    from pytest_divergence.options import BY_FIELD, MODELS

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
