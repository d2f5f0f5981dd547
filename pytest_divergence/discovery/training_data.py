"""Training data of a candidate from a file: prompts, and the responses that they were given.

Knows the formats that trainers read, and what is wrong with a row. Does not know what the rows are
looked up for.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.safe_text import printable
from pytest_divergence.core.setting_names import setting
from pytest_divergence.discovery.prompt_files import (
    csv_rows,
    json_value,
    listed,
    numbered_lines,
    text_of_file,
)
from pytest_divergence.models.fingerprints import text_digest

CONVERSATION_KEYS = ("messages", "conversations")
PROMPT_KEYS = ("instruction", "prompt", "input")
RESPONSE_KEYS = ("completion", "response", "output", "chosen")
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant"}
"""Roles under names of their own, as ShareGPT has them."""
MAX_SEED_LENGTH = 200
"""Characters of a row's prompt that may become a seed: nine in ten shipped seeds are shorter."""

Turn = tuple[str, str]
"""A role and its text."""


@dataclass(frozen=True)
class Exchange:
    """One response, and all text since the response before it."""

    prompt: str
    response: str


@dataclass(frozen=True)
class TrainingRow:
    """A row of the file: what it teaches, and the user's first words."""

    exchanges: tuple[Exchange, ...]
    """None for a conversation without a reply, and for a pair marked as undesired."""
    opening: str
    """Empty if the user says nothing."""


@dataclass(frozen=True)
class TrainingData:
    """The rows of a file in their order, and the digest of its text."""

    rows: tuple[TrainingRow, ...]
    sha256: str

    def seeds(self, count: int, *, seed: int, without: Collection[str]) -> list[str]:
        """Draw up to `count` distinct short openings, none of them one of `without`."""
        openings = dict.fromkeys(row.opening for row in self.rows)
        fit = [text for text in openings if 0 < len(text) <= MAX_SEED_LENGTH]
        fit = [text for text in fit if text not in without]
        return random.Random(f"training data {seed}").sample(fit, min(count, len(fit)))


def read_training_data(path: Path) -> TrainingData:
    """Read a file of the setting `training_data`: JSON Lines, a JSON list, or CSV with a header.

    A row is a conversation (`messages`, `conversations`), or a prompt (`prompt`, `input`,
    `instruction` with or without `input`) and its response (`completion`, `response`, `output`,
    `chosen`), each a text or a list of messages. Rows whose `label` is false teach nothing.
    Raises `SettingsError` as `file:line: reason` for a bad row, and for a file without responses.
    """
    option = setting("training_data")
    if path.suffix == ".parquet":
        raise SettingsError(
            f"{option}={printable(str(path))}: Parquet is not read; write the file as JSON Lines, "
            "for example with pandas: read_parquet(…).to_json(…, orient='records', lines=True)"
        )
    text = text_of_file(path, option)
    rows = tuple(_row(values, place) for place, values in _values(text, path))
    if not any(exchange.response.strip() for row in rows for exchange in row.exchanges):
        what = "responses" if rows else "rows"
        raise SettingsError(
            f"{printable(str(path))} has no {what}; write prompts and responses as JSON Lines, "
            "as a JSON list or as CSV"
        )
    return TrainingData(rows, text_digest(text))


def _values(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each row as it stands in the file, with its place for messages."""
    shown = printable(str(path))
    if path.suffix == ".csv":
        for line, fields in csv_rows(text, path, *RESPONSE_KEYS):
            yield f"{shown}:{line}", fields
    elif text.lstrip().startswith("["):
        for number, values in enumerate(json_value(text, shown), start=1):
            yield f"{shown}: row {number}", values
    else:
        for number, content in numbered_lines(text):
            yield f"{shown}:{number}", json_value(content, f"{shown}:{number}")


def _row(values: Any, place: str) -> TrainingRow:
    row = _read(values) if isinstance(values, dict) else None
    if row is None:
        has = "is no object"
        if isinstance(values, dict):
            has = f"has {listed([key for key in values if values[key] is not None])}"
        raise SettingsError(
            f"{place}: a row of training data holds `messages`, or a prompt (`prompt`, `input` or "
            "`instruction`) and its response (`completion`, `response`, `output` or `chosen`), "
            f"each a text or a list of messages; this one {has}"
        )
    return row


def _read(values: Mapping[str, Any]) -> TrainingRow | None:
    """Return the row of an object; None if it holds no prompt and response."""
    for key in CONVERSATION_KEYS:
        if values.get(key):
            turns = _turns(values[key], "")
            return _taught([], turns, values) if turns else None
    response = _turns(_first(values, RESPONSE_KEYS), "assistant")
    prompt = _turns(_first(values, PROMPT_KEYS), "user")
    if response is None:
        return None
    if prompt is None:  # the preferred conversation may hold the prompt
        return _taught([], response, values) if response[0][0] != "assistant" else None
    more = values.get("input")
    if values.get("instruction") and isinstance(more, str) and more.strip():
        prompt = [*prompt, ("user", more)]
    return _taught(prompt, response, values)


def _first(values: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """Return the first value that is not empty, else the first that is not null, else None."""
    found = (values[key] for key in keys if values.get(key) is not None)
    return max(found, key=bool, default=None)


def _turns(value: Any, role: str) -> list[Turn] | None:
    """Return the turns of a text, which is `role`'s, or of a list of messages; None if neither."""
    if isinstance(value, str) and role:
        return [(role, value)]
    if not isinstance(value, list) or not value:
        return None
    turns = [_turn(message) for message in value]
    return None if None in turns else [turn for turn in turns if turn is not None]


def _turn(message: Any) -> Turn | None:
    if not isinstance(message, dict):
        return None
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if isinstance(content, list):  # parts, of which images and calls have no text
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "\n".join(text for text in texts if isinstance(text, str))
    if not isinstance(role, str) or not isinstance(content, str | None):
        return None
    return ("", "") if content is None else (ROLES.get(role, role), content)


def _taught(asked: Sequence[Turn], turns: Sequence[Turn], values: Mapping[str, Any]) -> TrainingRow:
    """Return a row with the responses among `turns`, the first of which `asked` precedes."""
    opening = next((text for role, text in (*asked, *turns) if role == "user"), "").strip()
    before = [text for _, text in asked]
    exchanges = []
    for role, text in turns:
        if role == "assistant":
            exchanges.append(Exchange("\n".join(filter(None, before)), text))
            before = []
        else:
            before.append(text)
    label = values.get("label")
    is_undesired = label is False or (isinstance(label, str) and label.strip().lower() == "false")
    return TrainingRow(() if is_undesired else tuple(exchanges), opening)
