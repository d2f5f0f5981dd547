"""Journals of one run that several machines have done parts of, united into one.

Knows that a unit's record says in `seconds` how long it took, and that all else of it is the same
wherever it was done. Does not know what a unit computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.journal import About, Content, journal_bytes, read_journal
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.store import write_atomically

NUM_SHOWN = 3
"""Differences of two runs that an error names."""
MAX_SHOWN = 24
"""Characters of a value in it."""


class MergeError(DivergenceError):
    """Journals that do not belong together, or do not agree."""


@dataclass(frozen=True)
class Merged:
    """A journal after its parts were united."""

    path: Path
    num_units: int
    num_added: int
    """Units that it did not have before."""
    num_damaged: int
    """Lines of its parts that could not be read: their units are done again."""
    is_replaced: bool = False
    """Whether another search's journal stood there before."""


def merge(target: Path, parts: Sequence[Path], *, may_replace: bool = False) -> Merged:
    """Unite the journals `parts` in `target`, which keeps what it has; twice is the same as once.

    Hold the lock of `target`. With `may_replace` a `target` of another run makes room. Raises
    MergeError, with `target` as it was, for parts of different runs and for a unit that two of them
    tell differently; StoreError.
    """
    found = [_journal(path) for path in parts]
    before = _journal(target) if target.is_file() else None
    is_replaced = bool(before and may_replace and found and before.key != found[0].key)
    every = [*([before] if before and not is_replaced else []), *found]
    _check_same_run(every)
    units: dict[str, Any] = {}
    told: dict[str, Path] = {}
    for one in every:
        for unit, record in one.units.items():
            if unit not in units:
                units[unit], told[unit] = record, one.path
            elif not _agree(units[unit], record):
                raise MergeError(
                    f"{told[unit]} and {one.path} tell the work unit {safe_line(unit, 80)} "
                    "differently, so these machines do not compute alike, or one file was "
                    "changed; remove one of them, and its shard does its units again"
                )
    num_before = len(before.units) if before and not is_replaced else 0
    if every and (len(units) > num_before or before is None or is_replaced):
        about = next((one.about for one in every if one.about), {})
        write_atomically(target, journal_bytes(str(every[0].key), about, units))
    return Merged(
        target,
        num_units=len(units),
        num_added=len(units) - num_before,
        num_damaged=sum(one.num_damaged for one in every),
        is_replaced=is_replaced,
    )


def unlike(ours: About, theirs: About) -> str:
    """In what two runs differ: `seed: 0, 1`, the first few; empty where it is not known."""
    names = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    if not (ours and theirs):
        return ""
    shown = [
        f"{name}: {_brief(ours.get(name))}, {_brief(theirs.get(name))}"
        for name in names[:NUM_SHOWN]
    ]
    return "; ".join(shown + ([f"{len(names) - NUM_SHOWN} more"] if names[NUM_SHOWN:] else []))


def _journal(path: Path) -> Content:
    content = read_journal(path)
    if content.key is None:
        raise MergeError(
            f"{path} is no journal of a search, or its first line is damaged; leave it out"
        )
    return content


def _check_same_run(every: Iterable[Content]) -> None:
    first: Content | None = None
    for one in every:
        first = first or one
        if one.key != first.key:
            reason = unlike(first.about, one.about)
            raise MergeError(
                f"{first.path} and {one.path} are of different searches"
                f"{f' ({reason})' if reason else ''}; name those of one search, or remove the one "
                "that is not wanted"
            )


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two machines told the same; how long it took is their own affair."""
    return {**one, "seconds": None} == {**other, "seconds": None}


def _brief(value: str | None) -> str:
    if value is None:
        return "-"
    return safe_line(value[:MAX_SHOWN])[1:-1] + ("…" if value[MAX_SHOWN:] else "")
