"""What a search says that has stopped to wait for other machines.

Imports nothing heavy before there is one.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_divergence.discovery.run import SearchOutcome
    from pytest_divergence.discovery.sharding import Awaited
    from pytest_divergence.session import DivergenceSession


def finished(session: DivergenceSession) -> SearchOutcome:
    """The outcome of this session's search. Raises UsageError where it waits for other shards."""
    outcome = session.outcome()
    if outcome.awaited is not None:
        raise pytest.UsageError(awaited_text(outcome.awaited, same_command(session)))
    return outcome


def reason(session: DivergenceSession) -> str | None:
    """Why the item `search` is an error; None where the search waits for no one."""
    awaited = session.outcome().awaited if session.outcome else None
    return None if awaited is None else awaited_text(awaited, same_command(session))


def same_command(session: DivergenceSession) -> str:
    """The command that this session was started by."""
    return shlex.join(["pytest", *map(str, session.config.invocation_params.args)])


def awaited_text(awaited: Awaited, again: str) -> str:
    """What was done, what is awaited, and how to go on: by the command `again`, at last."""
    return "\n".join(_lines(awaited, again))


def _lines(awaited: Awaited, again: str) -> Iterator[str]:
    from pytest_divergence.reports.blocks import command, sentence
    from pytest_divergence.reports.failures import WIDTH
    from pytest_divergence.reports.wording import number_of

    yield from sentence(
        f"the search is not complete, and nothing was judged: shard {awaited.shard} has done "
        f"{number_of(awaited.num_done, 'work unit')} ({awaited.tokens_forwarded:,} forwarded "
        f"tokens) and {awaited}. Bring the .divergence folder of the other machine here, unite "
        "both and go on. Where the machines share one folder, --divergence-shard-wait=SECONDS "
        "waits for the others.",
        width=WIDTH,
    )
    yield from command("unite", "pytest-divergence merge FOLDER", width=WIDTH, indent="  ")
    yield from command("go on", again, width=WIDTH, indent="  ")
