"""The paired damage test: is the candidate worse where the right answer is known?

The items are fixed before either model is asked, so that answers won count as those lost do. Does
not know how an item is measured (`pytest_divergence.scoring.known_answers`), nor the statistics
(`pytest_divergence.scoring.paired_test`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pytest_divergence.core.damage_record import DamageReport, KnownAnswer, MeasuredAnswer
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.prompt_files import (
    PROMPT_KEYS,
    csv_rows,
    json_value,
    numbered_lines,
    text_of_file,
)
from pytest_divergence.models.fingerprints import text_digest
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.known_answers import answer_margins
from pytest_divergence.scoring.paired_test import accuracy_change, detectable_loss, margin_change

CHUNK = 64
"""Items between two signs of progress."""
FIELDS = (*PROMPT_KEYS, "answer", "opening", "choices")
RULE = (
    "an item is an object with `input` or `prompt`, `answer`, and, if you like, `opening` (text) "
    "and `choices` (a list of texts that holds the answer)"
)


@dataclass(frozen=True)
class ItemSet:
    """The items of a file, and its digest."""

    items: tuple[KnownAnswer, ...]
    sha256: str


def read_items(path: Path) -> ItemSet:
    """Return the items of a JSON Lines or CSV file.

    Raises `SettingsError` as `file:line: reason` for a bad line, one that repeats an item, and for
    a file without items.
    """
    text = text_of_file(path, "ITEMS")
    rows = csv_rows(text, path, "answer") if path.suffix == ".csv" else _json_rows(text, path)
    items: dict[tuple[str, str], KnownAnswer] = {}
    for line, row in rows:
        item = _item(row, f"{path}:{line}")
        if (item.input, item.opening) in items:
            raise SettingsError(
                f"{path}:{line}: this item is there already; items that repeat count twice"
            )
        items[item.input, item.opening] = item
    if not items:
        raise SettingsError(f"{path} has no items; {RULE}")
    return ItemSet(tuple(items.values()), text_digest(text))


def compare_answers(
    pair: ModelPair, given: ItemSet, tolerance: float, listener: Listener
) -> DamageReport:
    """Ask both models every item, and test answers and margins.

    Raises `MeasurementError` for an item that is too long, and `NonFiniteLogitsError`.
    """
    found: list[MeasuredAnswer] = []
    for start in range(0, len(given.items), CHUNK):
        listener.progress("damage", start, len(given.items))
        found += answer_margins(pair, given.items[start : start + CHUNK])
    num_lost, num_won = sum(item.is_lost for item in found), sum(item.is_won for item in found)
    changes = [item.candidate_margin - item.reference_margin for item in found]
    return DamageReport(
        reference=pair.reference_identity.spec,
        candidate=pair.candidate_identity.spec,
        items_sha256=given.sha256,
        num_items=len(found),
        num_reference_right=sum(item.reference_margin > 0 for item in found),
        num_candidate_right=sum(item.candidate_margin > 0 for item in found),
        num_lost=num_lost,
        num_won=num_won,
        accuracy=accuracy_change(num_lost, num_won, len(found)),
        margin=margin_change(changes),
        tolerance=tolerance,
        detectable_loss=detectable_loss(len(found), (num_lost + num_won) / len(found)),
        items=found,
    )


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in numbered_lines(text):
        row = json_value(line, f"{path}:{number}")
        if not isinstance(row, dict):
            raise SettingsError(f"{path}:{number}: {RULE}")
        yield number, row


def _item(row: dict[str, Any], where: str) -> KnownAnswer:
    known = {name: row[name] for name in FIELDS if row.get(name)}
    prompt = next((known.pop(key) for key in PROMPT_KEYS if key in known), "")
    known.pop("prompt", None)
    if isinstance(known.get("choices"), str):  # as CSV holds a list
        known["choices"] = _choices(known["choices"], where)
    try:
        return KnownAnswer(input=prompt, **known)
    except ValidationError as error:
        reasons = {fault["msg"].removeprefix("Value error, ") for fault in error.errors()}
        told = next((reason for reason in reasons if reason.startswith("`")), RULE)
        raise SettingsError(f"{where}: {told}") from error


def _choices(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{where}: `choices` must be a JSON list of texts") from error
