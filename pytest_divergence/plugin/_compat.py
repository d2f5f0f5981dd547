"""One table of all options: what each is called, and how pytest's help words it.

Does not know what was given (`pytest_divergence.plugin.options`); what a value may be is decided by
`Settings` alone. Imports nothing heavy: pytest loads this in every session.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest


def taken_flags(parser: pytest.Parser) -> set[str]:
    """Flags that pytest and plugins loaded earlier have registered."""
    groups: list[Any] = [*parser._groups, parser._anonymous]
    return {name for group in groups for option in group.options for name in option.names()}


def fixture_definitions(node: pytest.Item | pytest.Collector) -> Sequence[Any]:
    """The fixtures `model_pair` that this part of the session sees, the nearest last."""
    return node.session._fixturemanager.getfixturedefs("model_pair", node) or ()


def announce(config: pytest.Config, text: str) -> None:
    """One line for people, outside of a search."""
    with uncaptured(config):
        printer(config)(f"divergence: {text}")


@contextmanager
def uncaptured(config: pytest.Config) -> Iterator[None]:
    """Output reaches the terminal, also during collection and fixtures."""
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        if terminal is not None:
            terminal.ensure_newline()
        yield


def printer(config: pytest.Config) -> Callable[[str], None]:
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")
    if terminal is None or hasattr(config, "workerinput"):
        return partial(print, file=sys.stderr, flush=True)  # a worker's stdout is lost
    write: Callable[[str], None] = terminal.write_line
    return write
