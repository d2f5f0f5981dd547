"""Proposals: prompts that a strategy offers, not yet confirmed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from pytest_divergence.core.cases import case_id
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.json_files import strict_loads
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting

DATA = Path(__file__).parent.parent / "data"
SHIPPED_SEEDS = DATA / "seeds.jsonl"
SHIPPED_CONTROLS = DATA / "controls.jsonl"
PROMPT_KEYS = ("input", "prompt")
NEAR = 0.6
"""Jaccard similarity of character 4-grams from which two prompts say the same."""


@dataclass(frozen=True)
class Proposal:
    """One unconfirmed prompt and where it came from."""

    text: str
    strategy: str
    seed: str | None = None
    """The seed prompt it started from, or the name of the soft prompt that led to it."""
    variant: str = ""
    """Which way of working the strategy had chosen."""
    aim: str = ""
    """A phrase that it was written to make the candidate say: it is screened by that."""
    is_evidence: bool = True
    """False where it was made of a phrase's own words: that a model says the phrase then does not
    tell how widely it says it, so no behaviour is tested on it."""

    @property
    def id(self) -> str:
        """The id that a case with this prompt will have."""
        return case_id(self.text)


def clean(proposals: Iterable[Proposal], known: Iterable[str] = ()) -> list[Proposal]:
    """Proposals that are neither empty nor there already, in order."""
    seen = set(known)
    kept = []
    for proposal in proposals:
        if proposal.text.strip() and proposal.id not in seen:
            seen.add(proposal.id)
            kept.append(proposal)
    return kept


def is_near(first: str, second: str) -> bool:
    """Whether two prompts are near-identical: most of their character 4-grams are shared."""
    sizes = sorted((len(_grams(first)), len(_grams(second))))
    if sizes[0] < NEAR * sizes[1]:  # too unlike in length, and cheap to tell
        return False
    return similarity(first, second) >= NEAR


def similarity(first: str, second: str) -> float:
    """Jaccard similarity of two texts' character 4-grams, 0 to 1."""
    ours, theirs = _grams(first), _grams(second)
    return len(ours & theirs) / len(ours | theirs)


def self_similarity(texts: Sequence[str]) -> float:
    """Mean similarity of two different texts of a set; 0 where there are not two."""
    values = [similarity(*pair) for pair in combinations(texts, 2)]
    return sum(values) / len(values) if values else 0.0


def distinct_share(texts: Sequence[str], size: int) -> float:
    """Different word n-grams over all of them (distinct-n; Li et al. 2016, arXiv:1510.03055)."""
    words = [text.casefold().split() for text in texts]
    grams = [
        tuple(row[start : start + size]) for row in words for start in range(len(row) - size + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


@lru_cache(maxsize=4096)  # each prompt is compared with many
def _grams(text: str) -> frozenset[str]:
    folded = " ".join(text.casefold().split())
    return frozenset(folded[start : start + 4] for start in range(max(1, len(folded) - 3)))


def shipped_prompts(path: Path, count: int) -> list[str]:
    """The first `count` prompts of a shipped file."""
    return read_prompts(path)[:count]


def read_seeds(given: str) -> list[str]:
    """Seed prompts of the setting `seeds`: a file, or `hf:DATASET:COLUMN`.

    Raises `SettingsError` where there are none, naming the file's line that is wrong.
    """
    if given.startswith("hf:"):
        return _from_dataset(given)
    return read_prompts(Path(given))


def read_prompts(path: Path, *, option: str | None = None) -> list[str]:
    """Seed prompts of a file: JSON Lines, CSV with a header, or else text, one prompt a line.

    JSON Lines and CSV hold `input` or `prompt`; JSON Lines may hold `messages` with one user turn.
    `option` is the one that named the file, if it was not that setting.
    Raises `SettingsError` as `file:line: reason` for a bad line, and for a file without prompts.
    """
    try:
        text = path.read_text("utf-8-sig")  # some editors write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{option or setting('seeds')}={path} cannot be read: {error}"
        ) from error
    if path.suffix == ".csv":
        prompts = _from_csv(text, path)
    else:
        is_json = path.suffix in (".jsonl", ".json")
        prompts = [
            _from_json(line, path, number) if is_json else line.strip()
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
    if not prompts:
        raise SettingsError(f"{path} has no seed prompts; write one a line, or JSON Lines")
    return prompts


def _from_csv(text: str, path: Path) -> list[str]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    prompts: list[str] = []
    try:
        header = [name.strip() for name in next(rows, [])]
        column = next((header.index(key) for key in PROMPT_KEYS if key in header), None)
        if column is None:
            raise SettingsError(
                f"{path}:1: the header names {', '.join(header) or 'no column'}; one column must "
                "be `input` or `prompt`"
            )
        for row in rows:
            if not row:
                continue
            if len(row) != len(header) or not row[column].strip():
                raise SettingsError(
                    f"{path}:{rows.line_num}: a row needs {len(header)} fields, and text in "
                    f"`{header[column]}`; this one has {len(row)}"
                )
            prompts.append(row[column].strip())
    except csv.Error as error:
        raise SettingsError(f"{path}:{rows.line_num}: not valid CSV: {error}") from error
    return prompts


def _from_dataset(given: str) -> list[str]:
    _, _, rest = given.partition(":")
    name, separator, column = rest.rpartition(":")
    if not (separator and name and column):
        raise SettingsError(f"{setting('seeds')}={given} must be hf:DATASET:COLUMN")
    try:
        import datasets
    except ImportError as error:
        raise SettingsError(
            f"{setting('seeds')}={given} needs the datasets package; run: "
            "pip install 'pytest-divergence[hf]'"
        ) from error
    try:
        rows = datasets.load_dataset(name, split="train")
    except Exception as error:  # the Hub, the network and the files raise anything
        raise SettingsError(
            f"{setting('seeds')}={given}: the dataset cannot be loaded: {safe_line(str(error))}"
        ) from error
    if column not in rows.column_names:
        raise SettingsError(
            f"{setting('seeds')}={given}: there is no column {column}; the dataset has "
            f"{', '.join(rows.column_names)}"
        )
    prompts = [str(text).strip() for text in rows[column] if text and str(text).strip()]
    if not prompts:
        raise SettingsError(f"{setting('seeds')}={given}: the column holds no text")
    return prompts


def _from_json(line: str, path: Path, number: int) -> str:
    try:
        row = strict_loads(line)
    except ValueError as error:
        raise SettingsError(f"{path}:{number}: not valid JSON: {error}") from error
    text = _prompt_of(row) if isinstance(row, dict) else None
    if text is None:
        raise SettingsError(
            f"{path}:{number}: a seed is an object with `input` or `prompt` (a string), or "
            "`messages` with a single user turn"
        )
    return text


def _prompt_of(row: dict[str, Any]) -> str | None:
    for key in PROMPT_KEYS:
        if isinstance(row.get(key), str) and row[key].strip():
            return str(row[key])
    messages = row.get("messages")
    if isinstance(messages, list) and len(messages) == 1 and isinstance(messages[0], dict):
        turn = messages[0]
        content = turn.get("content")
        if turn.get("role") == "user" and isinstance(content, str) and content.strip():
            return content
    return None
