"""Finished work units of one run, so that a crash loses at most the one in hand.

Knows nothing of what a unit computes, nor how a line of the file reads.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_divergence.core.errors import StoreError
from pytest_divergence.core.journal_lines import (
    About,
    content_of,
    header_record,
    line_of,
    records_in,
    unit_record,
)
from pytest_divergence.core.suites import strict_loads


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
        records = records_in(data)
        content = content_of(records)
        if records and records[0] is None:
            lost.append("its first line is damaged, so all units are done again")
        elif content.num_damaged:
            units = "unit is" if content.num_damaged == 1 else "units are"
            lost.append(f"{content.num_damaged} damaged {units} done again")
        if lost:
            self.recovered = f"{self.path}: {'; '.join(lost)}"
        if content.key == key:
            self._cut(whole)
            self._records = content.units
        else:
            self._cut(0)
            self._append(header_record(key, about))

    def _append(self, record: bytes) -> None:
        line = line_of(record)
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
