"""A command inside of a project: its ini file, conftest.py and plugins hold as they do for pytest.

pytest sets itself up, and then the command takes the place of the session: nothing is collected,
and no test runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

PLUGIN = ("-p", "divergence")
"""Loads the plugin also where plugins are not loaded by themselves."""
Result = TypeVar("Result")


def in_project(arguments: Sequence[str], act: Callable[[pytest.Config], int]) -> int:
    """What `act` returns, given the configuration that pytest makes of `arguments`.

    Where pytest cannot set itself up (a wrong ini file, a conftest.py that fails), it says why, and
    its exit code is returned. Raises what `act` raises, a `pytest.UsageError` as `SettingsError`.
    """
    from pytest_divergence.core.errors import SettingsError

    instead = _Instead(act)
    code = int(pytest.main([*PLUGIN, *arguments], plugins=[instead]))
    if isinstance(instead.error, pytest.UsageError):
        raise SettingsError(str(instead.error)) from instead.error
    if instead.error is not None:
        raise instead.error
    return code


class _Instead:
    """A plugin that acts instead of the session."""

    def __init__(self, act: Callable[[pytest.Config], int]) -> None:
        self._act = act
        self.error: BaseException | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        try:
            # As for a session: what plugins prepare in `pytest_configure` may be asked for.
            config._do_configure()
            # Its lines go to stdout, which is the command's own.
            config.pluginmanager.unregister(name="terminalreporter")
            return self._act(config)
        except BaseException as error:  # pytest would swallow some, and print others its own way
            self.error = error
            return pytest.ExitCode.INTERNAL_ERROR
