"""The continuations of a suite's cases, as token ids: NAME.tokens.jsonl.

Replay scores these instead of sampling anew, so that a gate measures the same thing each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field, model_validator

from pytest_divergence.core.cases import Count, Record, SafeId
from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.suites import AnyPath, read_rows, validated, write_rows

Continuation = Annotated[list[Count], Field(min_length=1)]


class StoredTokens(Record):
    """One case's continuations, each a list of token ids, end of turn included."""

    id: SafeId
    """The case's."""
    prompt_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """`prompt_digest` of the prompt's ids: tells whether the tokenizer still reads it the same."""
    reference: list[Continuation]
    """Written by the reference."""
    candidate: list[Continuation]
    """Written by the candidate."""

    @model_validator(mode="after")
    def _holds_a_continuation(self) -> StoredTokens:
        if not self.reference and not self.candidate:
            raise ValueError("reference and candidate are both empty; there is nothing to score")
        return self


def prompt_digest(ids: Sequence[int]) -> str:
    """Sha256 of a prompt's token ids, in hex."""
    return hashlib.sha256(",".join(str(int(token)) for token in ids).encode("ascii")).hexdigest()


def load_tokens(path: AnyPath) -> dict[str, StoredTokens]:
    """Read a tokens file, by case id. Raises SuiteError naming the first faulty line."""
    stored: dict[str, StoredTokens] = {}
    for number, row in read_rows(path):
        tokens = validated(path, number, row, StoredTokens)
        if tokens.id in stored:
            raise SuiteError(path, number, f"the tokens of case {tokens.id} again; drop one")
        stored[tokens.id] = tokens
    return stored


def write_tokens(path: AnyPath, rows: Iterable[StoredTokens]) -> None:
    """Write a tokens file, sorted by id: old or new, never half. Raises SuiteError, StoreError."""
    write_rows(path, (row.model_dump(mode="json") for row in rows))
