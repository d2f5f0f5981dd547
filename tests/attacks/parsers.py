"""Everything that reads what others have written, and a real example of what it reads.

Each either returns or raises one clear error. Where a writer belongs to it, what was read is
written, and must be read again as the same.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pytest_divergence.core.errors import DivergenceError

MAX_MESSAGE = 1000
MAX_SECONDS = 5.0
"""Of CPU time, for one call."""
HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
KEY = "k" * 64


@dataclass(frozen=True)
class Parser:
    """A function that reads a file, a folder or a text of strangers."""

    name: str
    inputs: st.SearchStrategy[Any]
    read: Callable[[Path, Any], object]
    """Given an empty folder and one of the inputs."""


class HoleError(AssertionError):
    """A call that neither returned nor said in one sentence why not."""


def fuzz(parser: Parser, *, examples: int, is_steady: bool = True) -> int:
    """Try a parser on so many inputs, and count them. Raises the smallest HoleError."""
    count = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=is_steady,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.target, Phase.shrink),
        report_multiple_bugs=False,
    )
    @given(parser.inputs)
    def holds(value: Any) -> None:
        nonlocal count
        count += 1
        try_one(parser, value)

    holds()
    return count


def try_one(parser: Parser, value: Any) -> None:
    """One call, in an empty folder. Raises HoleError."""
    with tempfile.TemporaryDirectory(prefix="attack-") as outer:
        folder = Path(outer, "inside")
        folder.mkdir()
        started = time.process_time()
        try:
            parser.read(folder, value)
        except (DivergenceError, pytest.UsageError) as error:
            _check_message(str(error), outer)
        except HoleError:
            raise
        except Exception as error:
            raise HoleError(f"{parser.name}: {type(error).__name__}: {str(error)[:200]}") from error
        taken = time.process_time() - started
        if taken > MAX_SECONDS:
            raise HoleError(f"{parser.name} took {taken:.1f} s")
        if os.listdir(outer) != ["inside"]:
            raise HoleError(f"{parser.name} wrote outside of its folder: {os.listdir(outer)}")
        for path in folder.rglob("*"):
            if path.name.endswith(".divergence-tmp"):
                raise HoleError(f"{parser.name} left {path.name}")


def _check_message(message: str, folder: str) -> None:
    message = message.replace(folder, "")
    if len(message) > MAX_MESSAGE:
        raise HoleError(f"a message of {len(message)} characters: {message[:120]}")
    raw = {hex(ord(char)) for char in message if unicodedata.category(char) in HIDDEN}
    if raw:
        raise HoleError(
            f"control characters in a message, {', '.join(sorted(raw))}: {message[:200]!r}"
        )
    if not message.strip():
        raise HoleError("an error without a word")


def in_file(name: str, read: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    """A reader of a file with that name."""

    def whole(folder: Path, data: bytes) -> object:
        path = folder / name
        path.write_bytes(data)
        return read(path)

    return whole


def round_trip(
    read: Callable[[Path], Any], write: Callable[[Path, Any], object]
) -> Callable[[Path], object]:
    """What is read is written elsewhere, and must be read there as the same."""

    def whole(path: Path) -> object:
        value = read(path)
        copy = path.with_name(f"copy-{path.name}")
        write(copy, value)
        again = read(copy)
        if again != value:
            raise HoleError(
                f"written and read again, it is another: {value!r:.200} and {again!r:.200}"
            )
        return value

    return whole


def safetensors_file(header: bytes, *, size: int | None = None) -> bytes:
    """A safetensors file of this header, with a few bytes behind it."""
    return struct.pack("<Q", len(header) if size is None else size) + header + bytes(64)


def safetensors_headers(real: dict[str, Any], near: st.SearchStrategy[bytes]) -> Any:
    """Files whose header is near a real one, or whose length lies."""
    sizes = st.none() | st.sampled_from((0, 1, 2**31, 2**63, 2**64 - 1))
    same = st.just(json.dumps(real).encode())
    return st.builds(lambda one, size: safetensors_file(one, size=size), near | same, sizes)
