"""JSON and JSON Lines: read strictly, and written old or new, never half.

Nothing is repaired or skipped in silence: whatever cannot be used is a `SuiteError` that names
the line, because a suite that lost rows in silence would pass. Does not know what the rows are.
"""

from __future__ import annotations

import errno
import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any, TypeVar
from unicodedata import category

import jsonlines
from pydantic import BaseModel, ValidationError

from pytest_divergence.core.errors import SuiteError, first_fault
from pytest_divergence.core.file_names import AnyPath
from pytest_divergence.core.files import write_atomically
from pytest_divergence.core.regular_files import MAX_FILE_BYTES, read_regular
from pytest_divergence.core.safe_text import HIDDEN, safe_line

MAX_LINE_BYTES = 1 << 20
ESCAPED = HIDDEN - {"Cn", "Co", "Cs"}
"""Unicode categories that are escaped: what Python knows as assigned differs between versions, and
half a character cannot be stored at all."""
DELETE = "\x7f"
"""The one such character that json leaves as it is, even in ASCII."""
AnyModel = TypeVar("AnyModel", bound=BaseModel)


def strict_loads(text: str | bytes) -> Any:
    """Parse JSON that means one thing only.

    Raises ValueError for duplicate keys, NaN, infinity (`1e999` too), lone surrogates, nesting
    too deep and text that is not UTF-8.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(
            text.rstrip(" \t\r\n"),  # else the end of a cut document is reported as a new line
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
        has_escapes = "\\u" in text  # else encoding the text itself finds half a character
        (json.dumps(value, ensure_ascii=False) if has_escapes else text).encode("utf-8")
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"{error.msg.removesuffix(' at')} at {line}column {error.colno}") from None
    except UnicodeEncodeError:
        raise ValueError("a string holds half a character (a lone surrogate)") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason} at byte {error.start})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def strict_dumps(value: object, indent: int | None = None) -> str:
    """Return `value` as JSON that `strict_loads` reads. Raises ValueError for NaN and infinity.

    Invisible characters, and those that move others, are escaped, so that a diff or a terminal
    shows a file as it is.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    if text.isascii() and DELETE not in text:
        return text
    return text.translate(
        {
            ord(character): _escape(character)
            for character in set(text)
            if category(character) in ESCAPED and character != "\n"
        }
    )


def read_rows(path: AnyPath) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and object of each line that is not blank. Raises SuiteError."""
    for number, row in rows_or_faults(path):
        if isinstance(row, SuiteError):
            raise row
        yield number, row


def rows_or_faults(path: AnyPath) -> Iterator[tuple[int, dict[str, Any] | SuiteError]]:
    """Yield the line number and object of each line, or the fault of a line in place of its object.

    Raises SuiteError where reading cannot continue: no such file, or over the limits.
    """
    number, line = 0, b""

    def counted_lines() -> Iterator[bytes]:
        nonlocal number, line
        for number, line in enumerate(io.BytesIO(read_limited(path)), start=1):
            _check_size(path, number, len(line), MAX_LINE_BYTES, "line")
            yield line

    with jsonlines.Reader(counted_lines(), loads=strict_loads) as reader:
        while True:
            try:
                row = reader.read(type=dict, skip_empty=True)
            except EOFError:
                return
            except jsonlines.InvalidLineError as error:
                yield error.lineno, SuiteError(path, error.lineno, _why_invalid(error, line))
            else:
                yield number, row


def write_rows(path: AnyPath, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one object a line, sorted by `id`: old or new, never half.

    Raises SuiteError for an id given twice or a row over the limits; StoreError.
    """
    write_atomically(path, rows_data(path, rows))


def rows_data(path: AnyPath, rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the bytes that `write_rows` writes. Raises SuiteError."""
    ordered = sorted(rows, key=itemgetter("id"))
    for row, following in itertools.pairwise(ordered):
        if row["id"] == following["id"]:
            raise SuiteError(path, None, f"case {row['id']} is given twice; drop one")
    text = io.StringIO()
    try:
        with jsonlines.Writer(text, dumps=strict_dumps) as writer:
            writer.write_all(ordered)
        data = text.getvalue().encode("utf-8")
    except ValueError as error:
        raise SuiteError(path, None, f"a row cannot be stored as JSON: {error}") from error
    return within_limits(path, data)


def load_document(path: AnyPath, model: type[AnyModel], limit: int | None = None) -> AnyModel:
    """Read a file, of at most `limit` bytes, that is one JSON object. Raises SuiteError."""
    try:
        value = strict_loads(read_limited(path, limit))
    except ValueError as error:
        raise SuiteError(path, None, f"not valid JSON: {error}") from None
    return validated(path, None, value, model)


def write_document(path: AnyPath, document: BaseModel, limit: int | None = None) -> None:
    """Write a file that is one JSON object: old or new, never half.

    Raises SuiteError for what JSON cannot hold, and for over `limit` bytes; StoreError.
    """
    write_atomically(path, document_data(path, document, limit))


def document_data(path: AnyPath, document: BaseModel, limit: int | None = None) -> bytes:
    """Return the bytes that `write_document` writes. Raises SuiteError."""
    try:
        data = (strict_dumps(document.model_dump(mode="json"), indent=2) + "\n").encode("utf-8")
    except ValueError as error:
        raise SuiteError(path, None, f"cannot be stored as JSON: {error}") from error
    _check_size(path, None, len(data), limit or MAX_FILE_BYTES, "file")
    return data


def validated(path: AnyPath, line: int | None, value: object, model: type[AnyModel]) -> AnyModel:
    """Return `value` as a `model`. Raises SuiteError with the first fault as one sentence."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise SuiteError(path, line, first_fault(error, model)) from None


def read_limited(path: AnyPath, limit: int | None = None) -> bytes:
    """Read a whole file. Raises SuiteError where it cannot be read or is over `limit` bytes."""
    limit = limit or MAX_FILE_BYTES
    try:
        return read_regular(path, limit)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise _too_long(path, None, limit, "file") from None
        raise SuiteError(path, None, f"cannot be read: {error.strerror or error}") from None


def within_limits(path: AnyPath, data: bytes) -> bytes:
    """Return `data` if all of it is within the limits of reading. Raises SuiteError."""
    for number, line in enumerate(io.BytesIO(data), start=1):
        _check_size(path, number, len(line), MAX_LINE_BYTES, "line")
    _check_size(path, None, len(data), MAX_FILE_BYTES, "file")
    return data


def _check_size(path: AnyPath, line: int | None, size: int, limit: int, what: str) -> None:
    if size > limit:
        raise _too_long(path, line, limit, what)


def _too_long(path: AnyPath, line: int | None, limit: int, what: str) -> SuiteError:
    return SuiteError(path, line, f"the {what} is longer than {limit >> 20} MiB; split it")


def _escape(character: str) -> str:
    return json.dumps(character).strip('"') if character != DELETE else r"\u007f"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {safe_line(twice, 60)} is given twice")
    return row


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {safe_line(text, 40)} is too large")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def _why_invalid(error: jsonlines.InvalidLineError, line: bytes) -> str:
    cause = error.__cause__
    if cause is None:
        start = safe_line(line.decode("utf-8").strip(), 60)
        return f"each line must be one JSON object, in braces; this is {start}"
    if isinstance(cause, UnicodeDecodeError):
        return f"not UTF-8 ({cause.reason} at byte {cause.start}); save the file as UTF-8"
    if line.endswith(b"\n"):
        return f"not valid JSON: {cause}"
    return f"not valid JSON: {cause}; the last line has no line break, so the file may be cut off"
