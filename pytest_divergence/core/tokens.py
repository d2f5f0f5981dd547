"""The continuations of a suite's cases, as token ids: NAME.tokens.jsonl.

Replay scores these instead of new samples, so that a gate measures the same thing each time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pytest_divergence.core.cases import Count, Number, Record, SafeId
from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.file_names import AnyPath
from pytest_divergence.core.json_files import read_limited, read_rows, validated

WRITTEN_ID = re.compile(rb'{"id": "([A-Za-z0-9._-]+)", ')
"""Beginning of a line as we write it."""
Continuation = Annotated[list[Count], Field(min_length=1)]


class StoredTokens(Record):
    """One case's continuations, each a list of token ids, end of turn included."""

    id: SafeId
    """Id of the case."""
    prompt_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """`prompt_digest` of the prompt's ids: shows whether the tokenizer still gives the same ids."""
    reference: list[Continuation]
    """Written by the reference."""
    candidate: list[Continuation]
    """Written by the candidate."""
    candidate_log_p: list[list[Number]] | None = None
    """ln p of each of the candidate's tokens by the candidate that wrote them, in nats; left out of
    files where it was not measured."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        row: dict[str, Any] = dump(self)
        return {key: value for key, value in row.items() if value is not None}

    @model_validator(mode="after")
    def _holds_a_continuation(self) -> StoredTokens:
        if not self.reference and not self.candidate:
            raise ValueError("reference and candidate are both empty; there is nothing to score")
        if self.candidate_log_p is not None:
            lengths, expected = (
                [*map(len, each)] for each in (self.candidate_log_p, self.candidate)
            )
            if lengths != expected:
                raise ValueError(
                    f"candidate_log_p holds {lengths} numbers and candidate {expected} tokens; "
                    "it needs one number a token"
                )
        return self


def prompt_digest(ids: Sequence[int]) -> str:
    """Return the sha256 of a prompt's token ids, in hex."""
    return hashlib.sha256(",".join(str(int(token)) for token in ids).encode("ascii")).hexdigest()


def load_tokens(path: AnyPath) -> dict[str, StoredTokens]:
    """Read a tokens file, by case id. Raises SuiteError naming the first faulty line."""
    stored: dict[str, StoredTokens] = {}
    for number, row in read_rows(path):
        tokens = validated(path, number, row, StoredTokens)
        if tokens.id in stored:
            raise SuiteError(path, number, f"repeats the tokens of case {tokens.id}; drop one")
        stored[tokens.id] = tokens
    return stored


class ListedTokens(Mapping[str, StoredTokens]):
    """A tokens file for a listing: knows whose continuations it holds, and reads them on demand.

    Faults of a row are raised then, as `load_tokens` raises them.
    """

    def __init__(self, path: Path) -> None:
        """Read the ids alone, if each line begins as we write it."""
        self._path = path
        starts = [WRITTEN_ID.match(line) for line in read_limited(path).splitlines()]
        ids = [start[1].decode("ascii") for start in starts if start]
        self._ids = set(ids if len(ids) == len(starts) else self._rows)

    @cached_property
    def _rows(self) -> dict[str, StoredTokens]:
        return load_tokens(self._path)

    def __getitem__(self, id_: str) -> StoredTokens:
        return self._rows[id_]

    def __contains__(self, id_: object) -> bool:
        return id_ in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)
