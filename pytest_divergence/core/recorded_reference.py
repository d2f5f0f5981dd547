"""A recorded reference: what a suite's reference tells of each continuation, in a file beside it.

NAME.reference.json. Knows the record and its file; numbers are packed, as they are many. Does not
know how they are measured (`pytest_divergence.scoring.reference_record`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from pytest_divergence.core.cases import SCHEMA_VERSION, Record, SchemaVersion
from pytest_divergence.core.file_names import AnyPath
from pytest_divergence.core.json_files import load_document
from pytest_divergence.core.provenance import ModelProvenance

MAX_BYTES = 1 << 30
"""Size limit of a record, of which a token takes about 700 bytes."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, Field(strict=True, ge=1)]


class RecordedRow(Record):
    """Log-probabilities at the tokens of one continuation, as bytes in base64."""

    chosen: str
    """ln p of each token: T numbers (float32, little-endian)."""
    head_ids: str
    """Ids of the most likely tokens: T x K numbers (int32)."""
    head: str
    """ln p of these: T x K numbers (float32)."""


class RecordedReference(Record):
    """All that a replay needs of a suite's reference."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    tool_version: str
    reference: ModelProvenance
    """The model, and the digest of its weights."""
    vocabulary_sha256: Digest
    """Digest of the tokens and their ids, which the candidate's tokenizer must have too."""
    vocab_size: Size
    num_told: Size
    """Number K of most likely tokens at each position."""
    dtype: str
    device: str
    rows: dict[Digest, RecordedRow]
    """By `row_key`."""


def load_record(path: AnyPath) -> RecordedReference:
    """Read a record. Raises SuiteError."""
    return load_document(path, RecordedReference, MAX_BYTES)


def row_key(prompt_ids: Sequence[int], continuation: Sequence[int]) -> str:
    """Return the key of a continuation: sha256 of its ids and those of its prompt, in hex."""
    parts = (",".join(map(str, ids)) for ids in (prompt_ids, continuation))
    return hashlib.sha256("|".join(parts).encode("ascii")).hexdigest()


def packed(values: Sequence[float], kind: Literal["i", "f"]) -> str:
    """Return whole numbers (`i`) or others (`f`) as base64, in 4 bytes each."""
    return base64.b64encode(struct.pack(f"<{len(values)}{kind}", *values)).decode("ascii")


def unpacked(text: str, kind: Literal["i", "f"], count: int) -> list[float]:
    """Return `count` numbers from base64. Raises ValueError for another number of them."""
    try:
        return list(struct.unpack(f"<{count}{kind}", base64.b64decode(text, validate=True)))
    except (binascii.Error, struct.error) as error:
        raise ValueError(f"{count} numbers are not in it: {error}") from None
