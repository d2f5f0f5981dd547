"""The header of a GGUF file, with every count checked against the size of the file.

The `gguf` package trusts the counts: a file of 97 kB kept it busy for 87 s and 7.7 GB. Nothing is
handed to it before this has walked the header. Format: ggml's docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from pytest_divergence.core.errors import ModelLoadError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a number, by its type."""
STRING, ARRAY = 8, 9
MAX_DIMENSIONS = 4
MAX_WEIGHTS_PER_BYTE = 8
"""The densest formats keep a weight in more than one bit."""
TOKENS_KEY = "tokenizer.ggml.tokens"
MAX_HEADER_BYTES = 256 * 2**20


@dataclass(frozen=True)
class GgufHeader:
    """What is needed of a header before the file is read."""

    tokens: tuple[str, ...]
    """By id; none where the file has no tokenizer."""


def read_gguf_header(path: Path, *, role: str) -> GgufHeader:
    """Walk the header of a file. Raises `ModelLoadError` where it is not one of a sound GGUF."""
    try:
        with path.open("rb") as stream:
            reader = _Reader(stream.read(MAX_HEADER_BYTES), path.stat().st_size)
        return reader.header()
    except OSError as error:
        raise ModelLoadError(f"{role}: {path} cannot be read: {error}") from error
    except ValueError as error:  # UnicodeDecodeError is one
        raise ModelLoadError(f"{role}: {path} is not a sound GGUF file: {error}") from error


class _Reader:
    def __init__(self, data: bytes, file_size: int) -> None:
        self._data = data
        self._file_size = file_size
        self._at = 0

    def header(self) -> GgufHeader:
        if self._take(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self._number("<I")
        if version not in VERSIONS:
            raise ValueError(f"version {version} is none of {VERSIONS}")
        num_tensors, num_keys = self._number("<Q"), self._number("<Q")
        tokens: tuple[str, ...] = ()
        for _ in range(self._count(num_keys, 13)):  # a key's length, a type, and one byte
            key = self._text()
            value = self._value(self._number("<I"), is_wanted=key == TOKENS_KEY)
            tokens = tuple(value) if value else tokens
        left = MAX_WEIGHTS_PER_BYTE * self._file_size
        for _ in range(self._count(num_tensors, 24)):
            left -= self._num_weights()
            if left < 0:
                raise ValueError("its tensors are larger than the file")
        return GgufHeader(tokens)

    def _num_weights(self) -> int:
        self._text()
        num_dimensions = self._number("<I")
        if num_dimensions > MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {num_dimensions} dimensions")
        shape = [self._number("<Q") for _ in range(num_dimensions)]
        self._take(4 + 8)  # its type, and where it begins
        return math.prod(shape)

    def _value(self, kind: int, *, is_wanted: bool) -> list[str]:
        """The strings of a wanted array; other values are stepped over."""
        if kind == STRING:
            self._take(self._number("<Q"))
            return []
        if kind != ARRAY:
            self._take(self._size(kind))
            return []
        kind, count = self._number("<I"), self._number("<Q")
        if kind != STRING:
            self._take(self._count(count, self._size(kind)) * self._size(kind))
            return []
        strings = []
        for _ in range(self._count(count, 8)):
            text = self._take(self._number("<Q"))
            if is_wanted:
                strings.append(text.decode("utf-8"))
        return strings

    def _size(self, kind: int) -> int:
        if kind not in SIZES:
            raise ValueError(f"a value has the unknown type {kind}")
        return SIZES[kind]

    def _text(self) -> str:
        return self._take(self._number("<Q")).decode("utf-8")

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _count(self, count: int, least_bytes: int) -> int:
        if count * least_bytes > len(self._data) - self._at:
            raise ValueError(f"it announces {count} entries, more than the file can hold")
        return count

    def _take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise ValueError("it ends inside its header")
        taken = self._data[self._at : end]
        self._at = end
        return taken
