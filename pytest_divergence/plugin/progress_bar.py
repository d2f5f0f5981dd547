"""Progress of a search or a command: a bar on a terminal, a line now and then in a log.

Both show the time left. Knows terminals and threads. Does not know what is searched.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from pytest_divergence.core.safe_text import printable
from pytest_divergence.discovery.progress import Countdown, Listener
from pytest_divergence.plugin._compat import printer, uncaptured
from pytest_divergence.reports.wording import duration

HEARTBEAT_SECONDS = 30.0
"""Longest silence of a log: some CI services end a job that prints nothing."""


class BarListener:
    """A bar on a terminal for the current phase, with the time left for the whole run."""

    def __init__(self, bar: Progress) -> None:
        """Draw on `bar`, which is running."""
        self._bar = bar
        self._countdown = Countdown()
        self._task = bar.add_task("starting", total=None, left=self._countdown)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(Text(f"divergence: {printable(text)}"))

    def progress(self, phase: str, done: int, total: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, description=phase, completed=done, total=total)

    def expect(self, seconds: float) -> None:
        """Count down from so many seconds."""
        self._countdown.expect(seconds)


class LogListener:
    """Lines in a log: messages, and the search's position every half minute."""

    def __init__(
        self, write: Callable[[str], None], *, interval: float = HEARTBEAT_SECONDS
    ) -> None:
        """Call `write` for each line, from a second thread too: a phase may be silent for long."""
        self._write = write
        self._interval = interval
        self._state = "starting"
        self._countdown = Countdown()
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """Write a line."""
        self._write(f"divergence: {text}")

    def progress(self, phase: str, done: int, total: int) -> None:
        """Remember where the search is, for the next line."""
        self._state = f"{phase} {done}/{total}"

    def expect(self, seconds: float) -> None:
        """Count down from so many seconds, for the next line."""
        self._countdown.expect(seconds)

    def close(self) -> None:
        """Stop the thread."""
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(self._interval):
            passed = duration(time.monotonic() - self._started)
            left = str(self._countdown)
            self._write(f"divergence: {self._state} ({passed}{', ' if left else ''}{left})")


@contextmanager
def bar_on(console: Console) -> Iterator[BarListener]:
    """Draw a bar in as many columns as the terminal has; it disappears at the end."""
    columns = (
        TextColumn("divergence: {task.description}", markup=False),
        BarColumn(bar_width=None, table_column=Column(max_width=20, ratio=1)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[left]}", markup=False, table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield BarListener(bar)


@contextmanager
def search_progress(config: pytest.Config) -> Iterator[Listener]:
    """Show the progress of a search or a command, even while pytest captures output."""
    with uncaptured(config):
        if sys.stderr.isatty() and not hasattr(config, "workerinput"):
            # A console made while pytest still captures would show nothing.
            with bar_on(Console(stderr=True)) as bar:
                yield bar
        else:
            with closing(LogListener(printer(config))) as log:
                yield log
