"""Progress of a search or a command: a bar on a terminal, a line now and then in a log.

Both show the time that is left. Knows terminals and threads. Does not know what is searched.
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

from pytest_divergence.core.quantities import roughly
from pytest_divergence.core.safe_text import printable
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.plugin._compat import printer, uncaptured
from pytest_divergence.reports.wording import duration

HEARTBEAT_SECONDS = 30.0
"""How long a log stays silent at most: some CI services end a job that prints nothing."""


class Countdown:
    """The time that is left, as it was last expected."""

    def __init__(self) -> None:
        """Expect nothing yet."""
        self._end: float | None = None

    def expect(self, seconds: float) -> None:
        """Expect the end in so many seconds."""
        self._end = time.monotonic() + seconds

    def __str__(self) -> str:
        """Return `about 3 min left`, or nothing before anything was expected."""
        if self._end is None:
            return ""
        left = self._end - time.monotonic()
        return f"about {roughly(left)} left" if left > 0 else "longer than estimated"


class BarListener:
    """A bar on a terminal, of the phase that runs now, with the time left of all."""

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
    """Lines in a log: what is said, and every half minute where the search is."""

    def __init__(
        self, write: Callable[[str], None], *, interval: float = HEARTBEAT_SECONDS
    ) -> None:
        """Write lines by `write`, from a second thread too: a phase may not report for long."""
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
        """End the lines."""
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
    """Show the progress of a search or a command, although pytest captures."""
    with uncaptured(config):
        if sys.stderr.isatty() and not hasattr(config, "workerinput"):
            # A console bound before capturing was lifted would show nothing.
            with bar_on(Console(stderr=True)) as bar:
                yield bar
        else:
            with closing(LogListener(printer(config))) as log:
                yield log
