"""Prompts from files: the shipped seeds and controls, a user's seeds, a column of a dataset.

Knows the formats, and what is wrong with a line. Does not know what the prompts are used for.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.json_files import strict_loads
from pytest_divergence.core.regular_files import read_regular_text
from pytest_divergence.core.safe_text import printable, safe_line
from pytest_divergence.core.setting_names import setting

DATA = Path(__file__).parent.parent / "data"
SHIPPED_SEEDS = DATA / "seeds.jsonl"
SHIPPED_CONTROLS = DATA / "controls.jsonl"
PROMPT_KEYS = ("input", "prompt")
MAX_NAMES = 10
"""Columns that a message names."""


def shipped_prompts(path: Path, count: int) -> list[str]:
    """The first `count` prompts of a shipped file."""
    return read_prompts(path)[:count]


def read_seeds(given: str, *, option: str | None = None) -> list[str]:
    """Seed prompts of the setting `seeds`, or of another option: a file, or `hf:DATASET:COLUMN`.

    Raises `SettingsError` where there are none, naming the file's line that is wrong.
    """
    if given.startswith("hf:"):
        return _from_dataset(given, option or setting("seeds"))
    return read_prompts(Path(given), option=option)


def every_shipped_prompt() -> list[str]:
    """Return the shipped seeds, then the shipped controls."""
    return [*read_prompts(SHIPPED_SEEDS), *read_prompts(SHIPPED_CONTROLS)]


def read_prompts(path: Path, *, option: str | None = None) -> list[str]:
    """Seed prompts of a file: JSON Lines, CSV with a header, or else text, one prompt a line.

    JSON Lines and CSV hold `input` or `prompt`; JSON Lines may hold `messages` with one user turn.
    `option` is the option that named the file, if not the setting `seeds`.
    Raises `SettingsError` as `file:line: reason` for a bad line, and for a file without prompts.
    """
    text = text_of_file(path, option or setting("seeds"))
    if path.suffix == ".csv":
        prompts = _from_csv(text, path)
    else:
        is_json = path.suffix in (".jsonl", ".json")
        prompts = [
            _from_json(line, f"{path}:{number}") if is_json else line.strip()
            for number, line in numbered_lines(text)
        ]
    if not prompts:
        raise SettingsError(f"{path} has no prompts; write one per line, or JSON Lines")
    return prompts


def text_of_file(path: Path, option: str) -> str:
    """Return the text of a file that an option names. Raises `SettingsError`."""
    try:
        return read_regular_text(path)
    except OSError as error:
        raise SettingsError(
            f"{option}={printable(str(path))} cannot be read: {error.strerror}"
        ) from error


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line that is not blank, and its number in the text."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def json_value(text: str, place: str) -> Any:
    """Return the value of a JSON text; raises `SettingsError` that names its place."""
    try:
        return strict_loads(text)
    except ValueError as error:
        raise SettingsError(f"{place}: not valid JSON: {error}") from error


def csv_rows(text: str, path: Path, *keys: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row of CSV with a header: its line, and its fields by column, blanks included.

    Raises `SettingsError` if no column is one of `keys`, or if a row is broken.
    """
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        if not set(keys) & set(header):
            *most, last = (f"`{key}`" for key in keys)
            raise SettingsError(
                f"{path}:1: the header has {listed(header)}; one column must be "
                f"{', '.join(most)} or {last}"
            )
        for row in filter(None, rows):
            if len(row) != len(header):
                raise SettingsError(
                    f"{path}:{rows.line_num}: a row needs {len(header)} fields; "
                    f"this one has {len(row)}"
                )
            yield rows.line_num, {name: row[header.index(name)] for name in header}
    except csv.Error as error:
        raise SettingsError(f"{path}:{rows.line_num}: not valid CSV: {error}") from error


def _from_csv(text: str, path: Path) -> list[str]:
    prompts: list[str] = []
    for line, row in csv_rows(text, path, *PROMPT_KEYS):
        column = next(key for key in PROMPT_KEYS if key in row)
        if not (prompt := row[column].strip()):
            raise SettingsError(f"{path}:{line}: a row needs text in `{column}`")
        prompts.append(prompt)
    return prompts


def _from_dataset(given: str, option: str) -> list[str]:
    _, _, rest = given.partition(":")
    name, separator, column = rest.rpartition(":")
    if not (separator and name and column):
        raise SettingsError(f"{option}={given} must be hf:DATASET:COLUMN")
    try:
        import datasets
    except ImportError as error:
        raise SettingsError(
            f"{option}={given} needs the datasets package; run: pip install 'pytest-divergence[hf]'"
        ) from error
    try:
        rows = datasets.load_dataset(name, split="train")
    except Exception as error:  # the Hub, the network and the files raise anything
        raise SettingsError(
            f"{option}={given}: the dataset cannot be loaded: {safe_line(str(error))}"
        ) from error
    if column not in rows.column_names:
        raise SettingsError(
            f"{option}={given}: no column is named {column}; the dataset has "
            f"{listed(rows.column_names)}"
        )
    prompts = [str(text).strip() for text in rows[column] if text and str(text).strip()]
    if not prompts:
        raise SettingsError(f"{option}={given}: the column has no text")
    return prompts


def listed(columns: Sequence[str]) -> str:
    """Return the first names of columns, as a sentence shows them."""
    shown = [
        safe_line(name, 40)[1:-1] if len(name) <= 40 else safe_line(name, 40)
        for name in columns[:MAX_NAMES]
    ]
    return ", ".join(shown + ["…"] * (len(columns) > MAX_NAMES)) or "no column"


def _from_json(line: str, place: str) -> str:
    row = json_value(line, place)
    text = _prompt_of(row) if isinstance(row, dict) else None
    if text is None:
        raise SettingsError(
            f"{place}: a seed is an object with `input` or `prompt` (a string), or "
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
