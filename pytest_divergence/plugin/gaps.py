"""What a session was asked to test and did not: never green.

Knows which suites lost all of their items, and whether a replay replayed anything. Does not know
who deselected them, nor what an item asserts. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from pytest_divergence.core.safe_text import printable
from pytest_divergence.plugin.options import COMMAND_LINE
from pytest_divergence.plugin.session import DivergenceSession, is_suite

RESUMING = ("lf", "stepwise")
"""Options of pytest that leave out what has passed before, and nothing else."""


def note_deselected(session: DivergenceSession, items: Iterable[pytest.Item]) -> None:
    """Remember whose items are left out."""
    session.deselected |= {item.path for item in items if is_suite(item.path)}


def finish(pytest_session: pytest.Session, session: DivergenceSession) -> None:
    """Fail a session that would end green; a worker leaves that to its controller."""
    session.emptied |= {session.shown(path) for path in _emptied(pytest_session, session)}
    is_green = pytest_session.exitstatus == pytest.ExitCode.OK
    if is_green and session.plan.process != "worker" and sentences(session):
        pytest_session.exitstatus = pytest.ExitCode.TESTS_FAILED


def write(terminal: pytest.TerminalReporter, session: DivergenceSession) -> None:
    """Say what was not tested, however quiet the session is."""
    for sentence in sentences(session):
        terminal.ensure_newline()
        terminal.write_line(printable(f"divergence: {sentence}"), red=True)


def sentences(session: DivergenceSession) -> list[str]:
    """What was asked for and not tested, and what to do about it."""
    plan = session.plan
    if not plan.may_measure:
        return []
    said = [
        f"every item of {suite} was deselected, so that nothing of it was tested; to leave suites "
        "out on purpose, add --divergence-mode=off"
        for suite in sorted(session.emptied)
    ]
    mode = session.given.get("mode")
    is_asked = mode is not None and (mode.value, mode.source) == ("replay", COMMAND_LINE)
    if is_asked and not session.is_used and plan.process != "controller":
        said.append("--divergence-mode=replay is given, but there was nothing to replay")
    return said


def _emptied(pytest_session: pytest.Session, session: DivergenceSession) -> set[Path]:
    """The suites of which items were found and none was left."""
    if any(getattr(session.config.option, name, False) for name in RESUMING):
        return set()
    items: Sequence[pytest.Item] = getattr(pytest_session, "items", ())
    return session.deselected - {item.path for item in items}
