"""What a journal's file holds: lines, each a checksum and a JSON record, the first one of its run.

Knows nothing of what a unit computes, nor who writes the file.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_divergence.core.errors import MeasurementError, StoreError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.suites import strict_dumps, strict_loads

FORMAT = 1
About = Mapping[str, str]


@dataclass(frozen=True)
class Header:
    """What a journal says of the run that it is of."""

    line: int
    """Of the file, from 1."""
    key: str
    """Digest of all that may change a result."""
    about: About
    """What went into the key, in words, for people who compare two of them."""


@dataclass(frozen=True)
class Finished:
    """A unit as one line tells it."""

    line: int
    """Of the file, from 1."""
    unit: str
    result: Any
    """Plain JSON."""


@dataclass(frozen=True)
class Content:
    """What a journal's file held when it was read."""

    path: Path
    headers: tuple[Header, ...] = ()
    """More than one where someone put journals together; none where the first line is none."""
    finished: tuple[Finished, ...] = ()
    """All that is of the first header's run."""
    damaged: tuple[int, ...] = ()
    """Lines that are not what its run wrote; a torn last line is none of them."""

    @property
    def key(self) -> str | None:
        """The run's; None where the first line is no journal's."""
        return self.headers[0].key if self.headers else None

    @property
    def about(self) -> About:
        """The run's."""
        return self.headers[0].about if self.headers else {}

    @property
    def units(self) -> dict[str, Any]:
        """Results by unit, as plain JSON."""
        return {one.unit: one.result for one in self.finished}


def read_journal(path: Path) -> Content:
    """A journal's units, also while another process writes it. Raises StoreError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read the journal {path}: {error.strerror or error}") from error
    return content_of(path, records_in(data))


def journal_bytes(key: str, about: About, units: Mapping[str, Any]) -> bytes:
    """The file of a journal that holds these units."""
    records = [header_record(key, about), *(unit_record(unit, one) for unit, one in units.items())]
    return b"".join(line_of(one) for one in records)


def header_record(key: str, about: About) -> bytes:
    """What a journal's first line says."""
    more = {"about": dict(about)} if about else {}
    return strict_dumps({"journal": FORMAT, "key": key, **more}).encode("utf-8")


def content_of(path: Path, records: Sequence[bytes | None]) -> Content:
    """What the records of the file at `path` say; None is a damaged one."""
    headers: list[Header] = []
    finished: list[Finished] = []
    damaged: list[int] = []
    for line, record in enumerate(map(_parsed, records), start=1):
        key, about, unit = (record.get(name) for name in ("key", "about", "unit"))
        if record.get("journal") == FORMAT and isinstance(key, str):
            told = about.items() if isinstance(about, dict) else ()
            headers.append(Header(line, key, {name: str(one) for name, one in told}))
        elif not headers:
            break
        elif headers[-1].key == headers[0].key and isinstance(unit, str) and "result" in record:
            finished.append(Finished(line, unit, record["result"]))
        else:
            damaged.append(line)
    return Content(path, tuple(headers), tuple(finished), tuple(damaged))


def _parsed(record: bytes | None) -> dict[str, Any]:
    """A record; empty where it is damaged, or none of a journal: strangers' files are read too."""
    with contextlib.suppress(ValueError):
        found = strict_loads(record) if record is not None else None
        if isinstance(found, dict):
            return found
    return {}


def unit_record(unit: str, result: object) -> bytes:
    """What a line says of a finished unit; raises MeasurementError for what is not plain JSON."""
    try:
        record = strict_dumps({"unit": unit, "result": result}).encode("utf-8")
        strict_loads(record)
    except (TypeError, ValueError, RecursionError) as error:
        raise MeasurementError(
            f"work unit {safe_line(unit)} returned what plain JSON cannot hold ({error}); "
            "return finite numbers, strings, lists and dicts with string keys"
        ) from error
    return record


def line_of(record: bytes) -> bytes:
    """A record with its checksum, as it stands in the file."""
    return _checksum(record) + b" " + record + b"\n"


def records_in(data: bytes) -> list[bytes | None]:
    """The records of a file's whole lines; None for a damaged one."""
    return [_checked(line) for line in data.split(b"\n")[:-1]]


def _checksum(record: bytes) -> bytes:
    return hashlib.sha256(record).hexdigest()[:16].encode("ascii")


def _checked(line: bytes) -> bytes | None:
    checksum, _, record = line.partition(b" ")
    return record if checksum == _checksum(record) else None
