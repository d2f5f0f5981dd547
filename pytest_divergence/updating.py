"""The session's part in rewriting suites: when it may not, and the writing at its end.

pytest loads this in every session; what is heavy waits until a suite is really updated. Does not
know how a suite is measured (`pytest_divergence.update_items`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_divergence import options, participation
from pytest_divergence.option_values import INI
from pytest_divergence.session import FOLDER

if TYPE_CHECKING:
    from pytest_divergence.core.stored import StoredSuite
    from pytest_divergence.session import DivergenceSession
    from pytest_divergence.update_items import SuiteUpdate

BEGUN_KEY = pytest.StashKey["list[SuiteUpdate]"]()
"""The suites that this session measures afresh."""
LINES_KEY = pytest.StashKey["list[str]"]()
"""What the summary says of them."""
NUM_SHOWN = 20
"""Changed cases that the summary shows of one suite."""


def refuse(session: DivergenceSession) -> None:
    """Raise UsageError where this session asks for an update and may not do any."""
    asked = session.updates
    if asked is None or session.is_off or session.is_listing:
        return
    if reason := _reason_against(session):
        raise pytest.UsageError(f"{options.BY_FIELD[asked].flag} {reason}")


def _reason_against(session: DivergenceSession) -> str | None:
    settings = session.resolved.settings
    if participation.is_ci():
        return (
            "rewrites suites, and this is CI (the environment variable CI is set): run it on your "
            "own machine, look at the diff, and commit that"
        )
    if session.is_controller or session.worker_input is not None:
        return "rewrites suites as a whole, so it cannot be shared among workers; leave out -n"
    if settings.update and settings.fill:
        return "and --divergence-fill contradict each other; give one of them"
    if settings.mode == "search" or session.choice("builtin_suite") == "on":
        return (
            "rewrites suites that are there, and this session searches; leave out "
            "--divergence-mode=search and --divergence-builtin-suite=on"
        )
    return None


def begin(session: DivergenceSession, stored: StoredSuite) -> SuiteUpdate | None:
    """The update of a suite that this session has collected; None in other sessions."""
    asked = session.updates
    if asked is None or session.is_listing or session.worker_input is not None:
        return None
    path = stored.suite.path
    if FOLDER in path.parts:
        raise pytest.UsageError(
            f"{session.shown(path)} belongs to a search, which writes it anew; promote its cases "
            "(pytest-divergence promote), and update the suite that you get"
        )
    from pytest_divergence.update_items import SuiteUpdate

    update = SuiteUpdate(session, stored, is_fill=asked == "fill")
    session.config.stash.setdefault(BEGUN_KEY, []).append(update)
    return update


def check_selection(pytest_session: pytest.Session, session: DivergenceSession) -> None:
    """Before the first test: raise UsageError where a file would be rewritten from a part of it."""
    asked = session.updates
    if asked is None or session.is_off or session.is_listing or pytest_session.testsfailed:
        return
    flag, begun = options.BY_FIELD[asked].flag, _begun(session)
    if not begun and session.given[asked].source != INI:
        raise pytest.UsageError(
            f"{flag} found no suite; name one, or a folder with *{options.SUITE_SUFFIX} in it"
        )
    for update in begun:
        from pytest_divergence.update_items import missing

        if lacking := missing(update, pytest_session.items):
            raise pytest.UsageError(
                f"{flag} rewrites whole files, and this session leaves out {len(lacking)} of "
                f"{len(update.wanted)} cases of {session.shown(update.path)}, the first is "
                f"{lacking[0]}; leave out -k, -m, --lf, --deselect and node ids"
            )


def finish(pytest_session: pytest.Session, session: DivergenceSession) -> None:
    """Write every suite that was measured as a whole; fail the session for any other."""
    if pytest_session.exitstatus in (
        pytest.ExitCode.INTERRUPTED,
        pytest.ExitCode.INTERNAL_ERROR,
        pytest.ExitCode.USAGE_ERROR,
    ):
        return
    lines = session.config.stash.setdefault(LINES_KEY, [])
    for update in _begun(session):
        problem = _written(session, update)
        if problem is None:
            lines += _lines(session, update)
            continue
        lines.append(f"{session.shown(update.path)} stays as it was: {problem}.")
        if pytest_session.exitstatus == pytest.ExitCode.OK:
            pytest_session.exitstatus = pytest.ExitCode.TESTS_FAILED


def summary_lines(session: DivergenceSession) -> list[str]:
    """What was rewritten, and what was not."""
    return session.config.stash.get(LINES_KEY, [])


def _begun(session: DivergenceSession) -> list[SuiteUpdate]:
    return session.config.stash.get(BEGUN_KEY, [])


def _written(session: DivergenceSession, update: SuiteUpdate) -> str | None:
    """Why a suite was not written; None where it was."""
    from pytest_divergence.core.errors import DivergenceError
    from pytest_divergence.failing import error_text

    if problem := update.problem:
        return problem
    try:
        update.write()
    except DivergenceError as error:
        return error_text(session, error)
    return None


def _lines(session: DivergenceSession, update: SuiteUpdate) -> list[str]:
    from pytest_divergence.update_items import change
    from pytest_divergence.update_outlook import outlook

    path, changed = session.shown(update.path), update.changed()
    if not changed:
        return [f"{path}: every case has a kl already; nothing to fill."]
    shown = [f"  {new.id} {change(old, new)}" for old, new in changed[:NUM_SHOWN]]
    if len(changed) > NUM_SHOWN:
        shown.append(f"  {len(changed) - NUM_SHOWN} more: git diff {path}")
    cases = f"{len(changed)} case{'s' if len(changed) > 1 else ''}"
    first = f"{path} rewritten, {cases} measured afresh:"
    return [first, *shown, *outlook(session, update.written)]
