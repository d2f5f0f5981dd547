"""A session that does one machine's share of a search: what it refuses, and how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_divergence import options, participation
from pytest_divergence.collection import SuiteFile
from pytest_divergence.items import SearchItem

if TYPE_CHECKING:
    from pytest_divergence.session import DivergenceSession

FLAG = options.BY_FIELD["shard"].flag


def refuse(session: DivergenceSession) -> None:
    """Raise UsageError where this session is asked for a share of a search, and can do none."""
    if not session.has_models or not session.is_asked or session.is_off or session.is_listing:
        return
    if reason := _reason_against(session):
        raise pytest.UsageError(reason)


def _reason_against(session: DivergenceSession) -> str | None:
    settings = session.resolved.settings
    given = f"{FLAG}={settings.shard}"
    if session.is_controller or session.worker_input is not None:
        return f"{given} cannot go with pytest-xdist: one process does a shard's work; leave out -n"
    if participation.mode(session) == "replay":
        return (
            f"{given} shares out a search, and this session replays; leave it out, or add "
            "--divergence-mode=search"
        )
    return settings.reason_against_shard


def join(session: DivergenceSession, pytest_session: pytest.Session) -> None:
    """Add the item `search` where the search waits: there is no suite yet that would bring it."""
    if not participation.adds_own_suite(session):
        return
    parent = SuiteFile.from_parent(pytest_session, path=session.own_suite)
    item = SearchItem.make(parent, session.outcome().report)
    if item.nodeid not in {one.nodeid for one in pytest_session.items}:
        pytest_session.items.append(item)
