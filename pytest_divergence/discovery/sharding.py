"""A search on several machines: all run the same program, and each does its share of the units.

A machine writes its own journal and reads the others'. It does all it owns of what is asked for
before it looks at what is missing; what stays missing stops it, for others to catch up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_divergence.core.errors import DivergenceError, StoreError
from pytest_divergence.core.journal import Journal
from pytest_divergence.core.journal_lines import About, Content, read_journal
from pytest_divergence.core.merging import MergeError, united, write_united
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.settings import Settings
from pytest_divergence.core.shards import Shard, shard_files
from pytest_divergence.core.unlike_runs import unlike
from pytest_divergence.discovery.executors import Done, Executor, InProcess, Unit, remembered
from pytest_divergence.discovery.pair_files import opened
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.models.pair import ModelPair

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
"""Seconds between two looks at the other machines' journals."""


@dataclass(frozen=True)
class Awaited:
    """Why a shard cannot go on yet."""

    shard: Shard
    units: Mapping[Shard, Sequence[str]]
    """What is missing, by who does it."""
    strangers: tuple[str, ...] = ()
    """Files of other shards that are of another search, and in what they differ."""
    num_done: int = 0
    """Units that this machine has done, in all of its sessions."""
    tokens_forwarded: int = 0
    """What they took."""

    def __str__(self) -> str:
        """One clause: `waits for shard 2/3 (controls/score/32 and 1 more)`."""
        owners = [f"shard {one} ({_named(units)})" for one, units in self.units.items()]
        return "; ".join([f"waits for {' and '.join(owners)}", *self.strangers])


class AwaitedUnitsError(DivergenceError):
    """A shard needs what other machines have not done, or not handed over, yet."""

    def __init__(self, awaited: Awaited) -> None:
        """Say what is missing."""
        super().__init__(str(awaited))
        self.awaited = awaited


class OtherJournals:
    """What other machines have done so far, as their files beside a journal tell."""

    def __init__(self, journal: Path, own: Path, key: str) -> None:
        """Read the undivided `journal` and all shards' files but `own`."""
        self._journal = journal
        self._own = own
        self._key = key
        self._seen: dict[Path, tuple[int, int]] = {}
        self._contents: dict[Path, Content] = {}

    def refresh(self) -> None:
        """Read what has changed since the last look."""
        for path in (self._journal, *shard_files(self._journal)):
            if path == self._own:
                continue
            with suppress(OSError, StoreError):  # not there yet, or just being replaced
                stat = path.stat()
                state = (stat.st_size, stat.st_mtime_ns)
                if self._seen.get(path) != state:
                    self._contents[path] = read_journal(path)
                    self._seen[path] = state

    def find(self, unit: str) -> Any | None:
        """A unit's record; None where no one has done it."""
        ours = (one for one in self._contents.values() if one.key == self._key)
        return next((one.units[unit] for one in ours if unit in one.units), None)


class Sharded:
    """Does this machine's share of the units, and takes the others' from their journals."""

    def __init__(
        self,
        shard: Shard,
        journal: Journal,
        others: OtherJournals,
        load_pair: Callable[[], ModelPair],
        *,
        key: str,
        wait: float,
        listener: Listener,
    ) -> None:
        """Wait up to `wait` seconds for each unit of another shard that is missing."""
        self._shard = shard
        self._journal = journal
        self._others = others
        self._load_pair = load_pair
        self._key = key
        self._wait = wait
        self._listener = listener
        self._owners: dict[str, Shard] = {}
        self._new: set[str] = set()

    def do(self, units: Sequence[Unit]) -> Iterator[Done]:
        """Each unit done; raises `AwaitedUnitsError` for the first that another has yet to do.

        All that is this machine's own is done before that.
        """
        self._do_own(units)
        for index, unit in enumerate(units):
            done = self._found(unit) or self._waited_for(unit)
            if done is None:
                raise AwaitedUnitsError(self._awaited(units[index:]))
            yield done

    def _do_own(self, units: Sequence[Unit]) -> None:
        """Do what is this machine's own, and what each machine does."""
        unknown = [one.name for one in units if one.name not in self._owners]
        self._owners.update(self._shard.owners(self._key, unknown))
        self._others.refresh()
        for unit in units:
            self._check_alike(unit)
            is_own = unit.is_common or self._owners[unit.name] == self._shard
            if is_own and self._found(unit) is None:
                remembered(self._journal, unit, self._load_pair)
                self._new.add(unit.name)

    def _check_alike(self, unit: Unit) -> None:
        """Raise `MergeError` where another machine did the same and got something else."""
        theirs = self._others.find(unit.name) if unit.name in self._journal else None
        if theirs is not None:
            ours = remembered(self._journal, unit, self._load_pair)
            if (ours.result, ours.tokens) != (theirs["result"], theirs["tokens"]):
                raise MergeError(
                    f"this machine and another do not compute alike: they tell the work unit "
                    f"{safe_line(unit.name, 80)} differently; use machines of one kind, or search "
                    "on one of them"
                )

    def _found(self, unit: Unit) -> Done | None:
        """From this machine's journal, or another's."""
        if unit.name in self._journal:
            done = remembered(self._journal, unit, self._load_pair)
            return replace(done, is_new=unit.name in self._new)
        record = self._others.find(unit.name)
        return None if record is None else Done.of(unit.name, record)

    def _waited_for(self, unit: Unit) -> Done | None:
        """The same once another machine has done it; None where that takes too long."""
        deadline, pause = time.monotonic() + self._wait, FIRST_PAUSE
        if self._wait > 0:
            owner = self._owners[unit.name]
            self._listener.say(f"waiting for shard {owner}: {unit.name} (up to {self._wait:g} s)")
        done = None
        while done is None and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, LONGEST_PAUSE)
            self._others.refresh()
            done = self._found(unit)
        return done

    def _awaited(self, units: Sequence[Unit]) -> Awaited:
        missing: dict[Shard, list[str]] = {}
        for unit in units:
            if self._found(unit) is None:
                missing.setdefault(self._owners[unit.name], []).append(unit.name)
        return Awaited(self._shard, missing)


@contextmanager
def executor_of(
    journal: Path,
    key: str,
    settings: Settings,
    load_pair: Callable[[], ModelPair],
    listener: Listener,
    *,
    about: About | None = None,
) -> Iterator[Executor]:
    """Does the units of a journal: all of them, or this machine's share. Hold the lock."""
    shard = settings.own_shard
    path = journal if shard is None else shard.file(journal)
    with opened(path, key, listener, about=about) as own:
        if shard is None:
            yield InProcess(own, load_pair)
        else:
            yield Sharded(
                shard,
                own,
                OtherJournals(journal, path, key),
                load_pair,
                key=key,
                wait=settings.shard_wait,
                listener=listener,
            )


def in_full(awaited: Awaited, journals: Sequence[Path], key: str, about: About) -> Awaited:
    """What a shard waits for, with what it has done in its files beside all of the journals.

    `key` and `about` are the run's: files of other shards that are of another run are named.
    """
    own = [awaited.shard.file(journal) for journal in journals]
    done = [unit for path in own if path.is_file() for unit in read_journal(path).units.values()]
    others = [path for journal in journals for path in shard_files(journal) if path not in own]
    strangers = [one for one in map(read_journal, others) if one.key not in (None, key)]
    return replace(
        awaited,
        strangers=tuple(_named_stranger(one, about) for one in strangers if one.about),
        num_done=len(done),
        tokens_forwarded=sum(unit["tokens"] for unit in done),
    )


def unite(journal: Path, key: str) -> None:
    """Put all that was done of a run into its undivided journal. Hold the lock."""
    parts = [path for path in shard_files(journal) if read_journal(path).key == key]
    write_united([united(journal, parts, may_replace=True)])


def _named_stranger(content: Content, about: About) -> str:
    reason = unlike(about, content.about)
    return f"{content.path.name} is of another search{f' ({reason})' if reason else ''}"


def _named(units: Sequence[str]) -> str:
    return units[0] + (f" and {len(units) - 1} more" if units[1:] else "")
