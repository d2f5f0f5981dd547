"""What a session was asked to test and did not: never green.

Knows which suites lost all of their items, and whether a replay replayed anything. Does not know
who deselected them, nor what an item asserts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.plugin.options import COMMAND_LINE, SUITE_SUFFIX
from pytest_divergence.plugin.session import DivergenceSession

EMPTIED_KEY = "divergence_emptied_suites"
"""What a worker of pytest-xdist sends to its controller."""
RESUMING = ("lf", "stepwise")
"""Options of pytest that leave out what has passed before, and nothing else."""
DESELECTED = pytest.StashKey[set[Path]]()
EMPTIED = pytest.StashKey[set[str]]()


def note_deselected(session: DivergenceSession, items: Iterable[pytest.Item]) -> None:
    """Remember whose items are left out."""
    paths = session.config.stash.setdefault(DESELECTED, set())
    paths |= {item.path for item in items if item.path.name.endswith(SUITE_SUFFIX)}


def hear(session: DivergenceSession, worker_output: Mapping[str, Any]) -> None:
    """Take note of what a worker of pytest-xdist found: its controller collects nothing."""
    session.config.stash.setdefault(EMPTIED, set()).update(worker_output.get(EMPTIED_KEY, ()))


def finish(session: pytest.Session, ours: DivergenceSession) -> None:
    """Fail a session that would end green; a worker tells its controller instead."""
    emptied = ours.config.stash.setdefault(EMPTIED, set())
    emptied |= {ours.shown(path) for path in _emptied(session, ours)}
    if ours.worker_input is not None:
        ours.config.workeroutput[EMPTIED_KEY] = sorted(emptied)  # type: ignore[attr-defined]
    elif session.exitstatus == pytest.ExitCode.OK and sentences(ours):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def write(terminal: pytest.TerminalReporter, session: DivergenceSession) -> None:
    """Say what was not tested, however quiet the session is."""
    for sentence in sentences(session):
        terminal.ensure_newline()
        terminal.write_line(f"divergence: {sentence}", red=True)


def sentences(session: DivergenceSession) -> list[str]:
    """What was asked for and not tested, and what to do about it."""
    if session.is_listing or session.is_off:
        return []
    emptied: set[str] = session.config.stash.get(EMPTIED, set())
    said = [
        f"every item of {suite} was deselected, so that nothing of it was tested; to leave suites "
        "out on purpose, add --divergence-mode=off"
        for suite in sorted(emptied)
    ]
    mode = session.given.get("mode")
    is_asked = mode is not None and (mode.value, mode.source) == ("replay", COMMAND_LINE)
    if is_asked and not session.is_used and not session.is_controller:
        said.append("--divergence-mode=replay is given, but there was nothing to replay")
    return said


def _emptied(session: pytest.Session, ours: DivergenceSession) -> set[Path]:
    """The suites of which items were found and none was left."""
    if any(getattr(ours.config.option, name, False) for name in RESUMING):
        return set()
    deselected = ours.config.stash.get(DESELECTED, set())
    items: Sequence[pytest.Item] = getattr(session, "items", ())
    return deselected - {item.path for item in items}
