"""Private API of pytest and pytest-xdist, all in this file: a change there is fixed here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
from _pytest.fixtures import FuncFixtureInfo as FixtureInfo

from pytest_divergence.core.safe_text import printable

__all__ = ["FixtureInfo"]


def taken_flags(parser: pytest.Parser) -> set[str]:
    """Return the flags that pytest and plugins loaded earlier have registered."""
    groups: list[Any] = [*parser._groups, parser._anonymous]
    return {name for group in groups for option in group.options for name in option.names()}


def parser_of(config: pytest.Config) -> pytest.Parser:
    """Return the parser that read the command line."""
    return config._parser


def ini_value(config: pytest.Config, name: str) -> Any:
    """Return an ini key's value; from `[tool.pytest]`, also one of another type than registered.

    pytest 9 takes no number or boolean there for a text, and no text for a list.
    """
    try:
        return config.getini(name)
    except (TypeError, pytest.UsageError):  # UsageError since 9.2
        found: Any = getattr(config, "_inicfg", None) or config.inicfg
        return found[name].value


def configure(config: pytest.Config) -> None:
    """Call `pytest_configure` of all plugins, as a session does when it begins."""
    config._do_configure()


def fixture_info(item: pytest.Function) -> FixtureInfo:
    """Return pytest's data on an item's fixtures; items that call one function may share it."""
    return item._fixtureinfo


def fixture_definitions(node: pytest.Item | pytest.Collector, name: str) -> Sequence[Any]:
    """Return the fixtures called `name` that this part of the session sees, the nearest last."""
    return node.session._fixturemanager.getfixturedefs(name, node) or ()


def active_fixtures(item: pytest.Item) -> Sequence[str]:
    """Return the names of a test's fixtures, those requested while it ran included."""
    request = getattr(item, "_request", None) or item
    return getattr(request, "fixturenames", ())


def terminal_width(terminal: pytest.TerminalReporter) -> int:
    """Return the number of columns of the terminal."""
    return terminal._tw.fullwidth


@contextmanager
def uncaptured(config: pytest.Config) -> Iterator[None]:
    """Let output reach the terminal, even during collection and fixtures."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        if terminal is not None:
            terminal.ensure_newline()
        yield


def printer(config: pytest.Config) -> Callable[[str], None]:
    """Return a function that writes a line where people see it."""
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")
    is_lost = terminal is None or hasattr(config, "workerinput")  # a worker's stdout is lost
    write = partial(print, file=sys.stderr, flush=True) if is_lost else terminal.write_line

    def write_printable(line: str) -> None:
        write(printable(line))

    return write_printable


def announce(config: pytest.Config, text: str) -> None:
    """Write one line for people, outside a search."""
    with uncaptured(config):
        printer(config)(f"divergence: {text}")


def scheduler_by_scope(config: pytest.Config, log: Any, scope_of: Callable[[str], str]) -> Any:
    """Return a pytest-xdist scheduler that keeps tests of one scope on one worker.

    If each test's scope is its node id, it is pytest-xdist's own, which is faster and keeps to
    `--maxschedchunk`.
    """
    from xdist.scheduler import (  # type: ignore[import-untyped]
        LoadScheduling,
        LoadScopeScheduling,
    )

    class DivergenceScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

        def remove_node(self, node: Any) -> str | None:
            """Give a killed worker's remaining tests to others, but not the one that killed it.

            The base class gives that test to each new worker until no worker is left.
            """
            pending = (
                (tests, nodeid)
                for tests in self.assigned_work[node].values()
                for nodeid, is_complete in tests.items()
                if not is_complete
            )
            first = next(pending, None)
            if first is not None:
                tests, killer = first
                tests[killer] = True
            super().remove_node(node)
            return None if first is None else killer

    class ChosenScheduling:
        """Scheduling that is chosen once the tests are known; this is the default until then."""

        def __init__(self) -> None:
            self._chosen = LoadScheduling(config, log)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._chosen, name)

        def schedule(self) -> None:
            known = self._chosen
            is_first = isinstance(known, LoadScheduling) and known.collection is None
            collections = known.node2collection if is_first else {}
            if any(scope_of(id_) != id_ for ids in collections.values() for id_ in ids):
                self._chosen = DivergenceScheduling(config, log)
                for node, ids in collections.items():
                    self._chosen.add_node(node)
                    self._chosen.add_node_collection(node, ids)
            self._chosen.schedule()

    return ChosenScheduling()
