"""Journals of one run that several machines have done parts of, united into one.

Knows that a unit's record says in `seconds` how long it took, and that all else of it is the same
wherever it was done. Does not know what a unit computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.journal_lines import Content, journal_bytes, read_journal
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.shards import shard_files, undivided
from pytest_divergence.core.store import DivergenceFolder, file_lock, write_together
from pytest_divergence.core.unlike_runs import in_sight, unlike

LOCK_SECONDS = 10.0
"""A search that holds a journal may take hours; better to say so."""


class MergeError(DivergenceError):
    """Journals that do not belong together, or do not agree."""


@dataclass(frozen=True)
class Merged:
    """A journal once its parts are united."""

    path: Path
    num_units: int
    num_added: int
    """Units that it did not have before."""
    damaged: tuple[str, ...]
    """Lines of its parts, as `path:line`, that are not as written: their units are done again."""
    data: bytes | None
    """What is to be written; None where the file stays as it is."""


def merge(root: Path, places: Sequence[Path]) -> list[Merged]:
    """Unite the journals at `places`, and the shards' files there, in the project at `root`.

    Twice is the same as once. Raises MergeError, with every file as it was, for journals of
    different searches, for a unit that is told differently twice or is none of a search, and where
    there are none; StoreError for a file that cannot be read or written, or that a search holds.
    """
    folder = root / ".divergence" / "journal"
    own = [path for path in sorted(folder.glob("*.jsonl")) if undivided(path) != path]
    targets: dict[Path, list[Path]] = {}
    for path in [*own, *(one for place in places for one in journals_in(place))]:
        targets.setdefault(folder / undivided(path).name, []).append(path)
    if not targets and any(folder.glob("*.jsonl")):
        raise _nothing(f"no search in {folder} was shared out, so there is nothing to unite")
    if not targets:
        raise _nothing_in(folder)
    _ = DivergenceFolder(root).journal  # makes it
    with ExitStack() as locks:
        for target in targets:
            locks.enter_context(file_lock(target.with_suffix(".lock"), timeout=LOCK_SECONDS))
        return write_united(
            [
                united(target, parts, may_replace=bool(set(parts) & set(own)))
                for target, parts in targets.items()
            ]
        )


def united(target: Path, parts: Sequence[Path], *, may_replace: bool = False) -> Merged:
    """What `target` and the journals `parts` hold together; nothing is written yet.

    With `may_replace` a `target` of another run makes room. Raises as `merge` does.
    """
    found = [_journal(path) for path in parts]
    before = read_journal(target) if target.is_file() else None
    if before and may_replace and found and before.key != found[0].key:
        before = None
    elif before:
        _check_is_journal(before)
    every = [*([before] if before else []), *found]
    _check_same_run(every)
    units = _units(every)
    num_added = len(units) - (len(before.units) if before else 0)
    about = next((one.about for one in every if one.about), {})
    is_new = before is None or num_added > 0
    return Merged(
        target,
        num_units=len(units),
        num_added=num_added,
        damaged=tuple(_at(one.path, line) for one in every for line in one.damaged),
        data=journal_bytes(str(every[0].key), about, units) if is_new else None,
    )


def write_united(journals: Sequence[Merged]) -> list[Merged]:
    """Write what has changed; hold the locks. Raises StoreError."""
    write_together({one.path: one.data for one in journals if one.data is not None})
    return list(journals)


def journals_in(place: Path) -> list[Path]:
    """The journals of a file or a folder: a project, its `.divergence`, or the journals' own.

    Beside shards' files an undivided journal of another search is an older one, and left out.
    Raises MergeError where there is none.
    """
    if place.is_file():
        return [place]
    for folder in (place / ".divergence" / "journal", place / "journal", place):
        found = {undivided(path) for path in folder.glob("*.jsonl")}
        if found:
            return [part for journal in sorted(found) for part in _parts_of(journal)]
    raise _nothing_in(place)


def _parts_of(journal: Path) -> list[Path]:
    parts = shard_files(journal)
    keys = {read_journal(path).key for path in parts}
    if journal.is_file() and (not parts or read_journal(journal).key in keys):
        parts.append(journal)
    return parts


def _nothing_in(place: Path) -> MergeError:
    return _nothing(f"there is no journal of a search in {place}")


def _nothing(reason: str) -> MergeError:
    return MergeError(
        f"{reason}; name the .divergence folder of a machine that has done a share of one, or "
        "files of its journal folder"
    )


def _journal(path: Path) -> Content:
    content = read_journal(path)
    _check_is_journal(content)
    return content


def _check_is_journal(content: Content) -> None:
    if content.key is None:
        raise MergeError(
            f"{_shown(content.path)} is no journal of a search, or its first line is damaged; "
            "leave it out, or remove it"
        )


def _check_same_run(every: Sequence[Content]) -> None:
    headers = [(one.path, header) for one in every for header in one.headers]
    for path, header in headers:
        first_path, first = headers[0]
        if header.key != first.key:
            place = _shown(path) if header.line == 1 else _at(path, header.line)
            reason = unlike(first.about, header.about)
            raise MergeError(
                f"{_shown(first_path)} and {place} are of different searches"
                f"{f' ({reason})' if reason else ''}; give those of one search, or remove the file "
                "that is not wanted"
            )


def _units(every: Iterable[Content]) -> dict[str, Any]:
    units: dict[str, Any] = {}
    told: dict[str, str] = {}
    for path, one in ((content.path, one) for content in every for one in content.finished):
        place, name = _at(path, one.line), safe_line(one.unit, 80)
        if not _is_record(one.result):
            raise MergeError(
                f"{place}: the work unit {name} is not as a search writes it, with result, tokens "
                "and seconds; remove the line, and it is done again"
            )
        if one.unit not in units:
            units[one.unit], told[one.unit] = one.result, place
        elif not _agree(units[one.unit], one.result):
            raise MergeError(
                f"{told[one.unit]} and {place} tell the work unit {name} differently: the machines "
                "do not compute alike, or a file was changed; remove one of the files, and its "
                "units are done again"
            )
    return units


def _is_record(found: Any) -> bool:
    """Whether it is a unit's record: a result, and what it has cost."""
    if not isinstance(found, dict) or found.keys() != {"result", "tokens", "seconds"}:
        return False
    tokens, seconds = found["tokens"], found["seconds"]
    return type(tokens) is int and type(seconds) in (int, float) and min(tokens, seconds) >= 0


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two machines told the same; how long it took is their own affair."""
    return {**one, "seconds": None} == {**other, "seconds": None}


def _at(path: Path, line: int) -> str:
    return f"{_shown(path)}:{line}"


def _shown(path: Path) -> str:
    return in_sight(str(path))
