"""What a journal's file holds: lines, each a checksum and a JSON record, the first one of its run.

Knows nothing of what a unit computes, nor who writes the file.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_divergence.core.errors import MeasurementError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.suites import strict_dumps, strict_loads

FORMAT = 1
About = Mapping[str, str]


@dataclass(frozen=True)
class Content:
    """What a journal's file held when it was read."""

    key: str | None = None
    """Digest of all that may change a result; None where the first line is no journal's."""
    units: dict[str, bytes] = field(default_factory=dict)
    """The record of each finished unit."""
    num_damaged: int = 0
    """Lines that are not what its run wrote; a torn last line is none of them."""


def header_record(key: str, about: About) -> bytes:
    """What a journal's first line says; `about` is the key in words, for people who compare two."""
    more = {"about": dict(about)} if about else {}
    return strict_dumps({"journal": FORMAT, "key": key, **more}).encode("utf-8")


def content_of(records: Sequence[bytes | None]) -> Content:
    """What the records of a file say; None is a damaged one."""
    header = _parsed(records[0]) if records else {}
    key = header.get("key")
    if header.get("journal") != FORMAT or not isinstance(key, str):
        return Content()
    units: dict[str, bytes] = {}
    num_damaged = 0
    for record in records[1:]:
        found = _parsed(record)
        unit = found.get("unit")
        if record is not None and isinstance(unit, str) and "result" in found:
            units[unit] = record
        else:
            num_damaged += 1
    return Content(key, units, num_damaged)


def _parsed(record: bytes | None) -> dict[str, Any]:
    """A record; empty where it is damaged, or none of a journal."""
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
