"""Finished work units of one run, so that a crash loses at most the unit in progress.

Knows the file, a checksum and a JSON object a line; knows nothing of what a unit computes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_divergence.core.errors import MeasurementError, StoreError
from pytest_divergence.core.files import write_atomically
from pytest_divergence.core.json_files import strict_dumps, strict_loads
from pytest_divergence.core.regular_files import open_own
from pytest_divergence.core.safe_text import safe_line

FORMAT = 1
MAX_BYTES = 1 << 30
"""Size limit of a journal; a search leaves a few megabytes."""


class Journal:
    """One run's finished units; made by `Journal.open`.

    One process writes it: hold a `file_lock` where two could. `recovered` says what a crash or
    damage cost since the last use, else None.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        """Own the open file `descriptor`."""
        self.path = path
        self.recovered: str | None = None
        self._descriptor: int | None = descriptor
        self._records: dict[str, bytes] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, key: str) -> Journal:
        """Continue the journal at `path`, or start one; another run's key starts it afresh.

        `key` is a digest of all that may change a result. Raises StoreError.
        """
        file = Path(path)
        try:
            journal = cls(file, _opened(file))
            try:
                journal._resume(key)
            except BaseException:
                journal.close()
                raise
        except OSError as error:
            raise StoreError(f"cannot open the journal {file}: {error.strerror}") from error
        return journal

    def __contains__(self, unit: str) -> bool:
        """Whether the result of a unit is stored."""
        return unit in self._records

    def remember(self, unit: str, compute: Callable[[], object]) -> Any:
        """Return the stored result of `unit`; without one, compute it and store it first.

        Either way the value has passed through JSON (a tuple becomes a list) and is a fresh copy.
        Raises MeasurementError for a result that is not plain JSON, NaN included; StoreError.
        """
        if unit not in self._records:
            record = unit_record(unit, compute())
            self._append(record)
            self._records[unit] = record
        return strict_loads(self._records[unit])["result"]

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Journal:
        """Return the journal itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def _resume(self, key: str) -> None:
        """Load the whole lines; leave the file with our key first and no torn or damaged line."""
        data = self._data()
        whole = data.rfind(b"\n") + 1
        lost = (
            [f"a torn tail of {len(data) - whole:,} bytes was removed"] if whole < len(data) else []
        )
        records = _records_in(data)
        content = _content_of(records)
        if records and records[0] is None:
            lost.append("its first line is damaged, so all units are redone")
        elif content.num_damaged:
            units = "unit is" if content.num_damaged == 1 else "units are"
            lost.append(f"{content.num_damaged} damaged {units} redone")
        if lost:
            self.recovered = f"{self.path}: {'; '.join(lost)}"
        if content.key != key:
            self._cut(0)
            self._append(_header_record(key))
            return
        self._records = content.units
        if content.num_damaged:
            self._write_anew(key)
        else:
            self._cut(whole)

    def _write_anew(self, key: str) -> None:
        """Leave the damaged lines out, or each later run would report them again."""
        records = [_header_record(key), *self._records.values()]
        self.close()  # Windows replaces no open file
        write_atomically(self.path, b"".join(_line_of(record) for record in records))
        self._descriptor = _opened(self.path)

    def _data(self) -> bytes:
        """Return the content of the open file; another file may be at its path by now."""
        assert self._descriptor is not None  # just opened
        size = os.fstat(self._descriptor).st_size
        if size > MAX_BYTES:
            raise StoreError(
                f"the journal {self.path} is longer than {MAX_BYTES >> 20} MiB; remove it"
            )
        with open(self._descriptor, "rb", closefd=False) as file:
            return file.read(size)

    def _append(self, record: bytes) -> None:
        line = _line_of(record)
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


@dataclass(frozen=True)
class _Content:
    """Content of a journal's file when it was read."""

    key: str | None = None
    """Digest of all that may change a result; None if the first line is not a journal's."""
    units: dict[str, bytes] = field(default_factory=dict)
    """Record of each finished unit."""
    num_damaged: int = 0
    """Lines that differ from what its run wrote, not counting a torn last line."""


def _opened(path: Path) -> int:
    """Open a journal's file to read it and to append to it. Raises OSError."""
    return open_own(path, os.O_RDWR | os.O_APPEND)


def _content_of(records: Sequence[bytes | None]) -> _Content:
    """Return the content of a file's records; None is a damaged record."""
    header = _parsed(records[0]) if records else {}
    key = header.get("key")
    if header.get("journal") != FORMAT or not isinstance(key, str):
        return _Content()
    units: dict[str, bytes] = {}
    num_damaged = 0
    for record in records[1:]:
        found = _parsed(record)
        unit = found.get("unit")
        if record is not None and isinstance(unit, str) and "result" in found:
            units[unit] = record
        else:
            num_damaged += 1
    return _Content(key, units, num_damaged)


def _parsed(record: bytes | None) -> dict[str, Any]:
    """Return a record; empty if it is damaged or not a journal's."""
    with contextlib.suppress(ValueError):
        found = strict_loads(record) if record is not None else None
        if isinstance(found, dict):
            return found
    return {}


def _header_record(key: str) -> bytes:
    """Return the record of a journal's first line."""
    return strict_dumps({"journal": FORMAT, "key": key}).encode("utf-8")


def unit_record(unit: str, result: object) -> bytes:
    """Return a finished unit's record; raises MeasurementError for what is not plain JSON."""
    try:
        record = strict_dumps({"unit": unit, "result": result}).encode("utf-8")
        strict_loads(record)
    except (TypeError, ValueError, RecursionError) as error:
        raise MeasurementError(
            f"work unit {safe_line(unit)} returned a value that plain JSON cannot hold "
            f"({error}); return finite numbers, strings, lists and dicts with string keys"
        ) from error
    return record


def _line_of(record: bytes) -> bytes:
    """Return a record with its checksum, as it is in the file."""
    return _checksum(record) + b" " + record + b"\n"


def _records_in(data: bytes) -> list[bytes | None]:
    """Return the records of a file's whole lines; None for a damaged one."""
    return [_checked(line) for line in data.split(b"\n")[:-1]]


def _checksum(record: bytes) -> bytes:
    return hashlib.sha256(record).hexdigest()[:16].encode("ascii")


def _checked(line: bytes) -> bytes | None:
    checksum, _, record = line.partition(b" ")
    return record if checksum == _checksum(record) else None
