"""Finished work units of one run, so that a crash loses at most the one in hand.

A file of lines, each a checksum and a JSON record. Knows nothing of what a unit computes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_divergence.core.errors import MeasurementError, StoreError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.suites import strict_dumps, strict_loads

FORMAT = 1
About = Mapping[str, str]


@dataclass(frozen=True)
class Content:
    """What a journal's file held when it was read."""

    path: Path
    key: str | None = None
    """Digest of all that may change a result; None where the first line is no journal's."""
    about: About = field(default_factory=dict)
    """What went into the key, in words, for people who compare two of them."""
    units: dict[str, Any] = field(default_factory=dict)
    """Results by unit, as plain JSON."""
    num_damaged: int = 0
    """Lines that are not what was written; a torn last line is none of them."""


def read_journal(path: Path) -> Content:
    """A journal's units, also while another process writes it. Raises StoreError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read the journal {path}: {error.strerror or error}") from error
    header, *records = map(_parsed, _lines(data) or [None])
    if header.get("journal") != FORMAT:
        return Content(path)
    key, about = header.get("key"), header.get("about")
    units = [one for one in records if isinstance(one.get("unit"), str) and "result" in one]
    return Content(
        path,
        key=key if isinstance(key, str) else None,
        about={name: str(one) for name, one in about.items()} if isinstance(about, dict) else {},
        units={one["unit"]: one["result"] for one in units},
        num_damaged=len(records) - len(units),
    )


def journal_bytes(key: str, about: About, units: Mapping[str, Any]) -> bytes:
    """The file of a journal that holds these units."""
    records = [_header(key, about), *(_finished(unit, one) for unit, one in units.items())]
    return b"".join(_line(one) for one in records)


class Journal:
    """One run's finished units; made by `Journal.open`.

    One process writes it: hold a `file_lock` where two could. `recovered` says what a crash or
    damage cost since the last use, else None; `num_reused` and `num_computed` count this use's
    units.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        """Own the open file `descriptor`."""
        self.path = path
        self.recovered: str | None = None
        self.num_reused = 0
        self.num_computed = 0
        self._descriptor: int | None = descriptor
        self._records: dict[str, bytes] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, key: str, about: About | None = None) -> Journal:
        """Go on with the journal at `path`, or start one; another run's key starts it afresh.

        `key` is a digest of all that may change a result, and `about` says what that is in words.
        Raises StoreError.
        """
        file = Path(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        try:
            journal = cls(file, os.open(file, flags, 0o666))
        except OSError as error:
            raise StoreError(f"cannot open the journal {file}: {error.strerror}") from error
        try:
            journal._go_on(key, about or {})
        except BaseException:
            journal.close()
            raise
        return journal

    def __contains__(self, unit: str) -> bool:
        """Whether the result of a unit is stored."""
        return unit in self._records

    def remember(self, unit: str, compute: Callable[[], object]) -> Any:
        """The stored result of `unit`; where there is none, `compute()`'s, once it is stored.

        Either way the value is what JSON makes of it (a tuple is a list), and the caller's own.
        Raises MeasurementError for a result that is not plain JSON, NaN included; StoreError.
        """
        if unit in self._records:
            self.num_reused += 1
        else:
            record = _finished(unit, compute())
            self._append(record)
            self._records[unit] = record
            self.num_computed += 1
        return strict_loads(self._records[unit])["result"]

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Journal:
        """The journal itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def _go_on(self, key: str, about: About) -> None:
        """Take over what is whole; leave the file ending with a whole line and our key on top."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        lost = [f"a torn tail of {len(data) - whole:,} bytes was cut"] if whole < len(data) else []
        records = _lines(data)
        if records and records[0] is None:
            lost.append("its first line is damaged, so all units are done again")
        elif num_damaged := records.count(None):
            units = "unit is" if num_damaged == 1 else "units are"
            lost.append(f"{num_damaged} damaged {units} done again")
        if lost:
            self.recovered = f"{self.path}: {'; '.join(lost)}"
        if records and records[0] is not None and _is_of(strict_loads(records[0]), key):
            self._cut(whole)
            self._records = {strict_loads(r)["unit"]: r for r in records[1:] if r is not None}
        else:
            self._cut(0)
            self._append(_header(key, about))

    def _append(self, record: bytes) -> None:
        line = _line(record)
        if self._descriptor is None:
            raise StoreError(f"the journal {self.path} is closed")
        size = os.fstat(self._descriptor).st_size
        try:
            if os.write(self._descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._cut(size)
            raise StoreError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _cut(self, size: int) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, size)


def _header(key: str, about: About) -> bytes:
    more = {"about": dict(about)} if about else {}
    return strict_dumps({"journal": FORMAT, "key": key, **more}).encode("utf-8")


def _parsed(record: bytes | None) -> dict[str, Any]:
    """A record; empty where it is damaged, or none of a journal: strangers' files are read too."""
    with contextlib.suppress(ValueError):
        found = strict_loads(record) if record is not None else None
        if isinstance(found, dict):
            return found
    return {}


def _is_of(header: Any, key: str) -> bool:
    return isinstance(header, dict) and (header.get("journal"), header.get("key")) == (FORMAT, key)


def _finished(unit: str, result: object) -> bytes:
    try:
        record = strict_dumps({"unit": unit, "result": result}).encode("utf-8")
        strict_loads(record)
    except (TypeError, ValueError, RecursionError) as error:
        raise MeasurementError(
            f"work unit {safe_line(unit)} returned what plain JSON cannot hold ({error}); "
            "return finite numbers, strings, lists and dicts with string keys"
        ) from error
    return record


def _line(record: bytes) -> bytes:
    return _checksum(record) + b" " + record + b"\n"


def _lines(data: bytes) -> list[bytes | None]:
    """The records of a file's whole lines; None for a damaged one."""
    return [_checked(line) for line in data.split(b"\n")[:-1]]


def _checksum(record: bytes) -> bytes:
    return hashlib.sha256(record).hexdigest()[:16].encode("ascii")


def _checked(line: bytes) -> bytes | None:
    checksum, _, record = line.partition(b" ")
    return record if checksum == _checksum(record) else None
