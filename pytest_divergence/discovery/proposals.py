"""Proposals: prompts that a strategy offers, not yet confirmed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytest_divergence.core.cases import case_id
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.suites import strict_loads

DATA = Path(__file__).parent.parent / "data"
SHIPPED_SEEDS = DATA / "seeds.jsonl"
SHIPPED_CONTROLS = DATA / "controls.jsonl"
NEAR = 0.6
"""Jaccard similarity of character 4-grams from which two prompts say the same."""


@dataclass(frozen=True)
class Proposal:
    """One unconfirmed prompt and where it came from."""

    text: str
    strategy: str
    seed: str | None = None
    """The seed prompt it started from, or the name of the soft prompt that led to it."""

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
    ours, theirs = _grams(first), _grams(second)
    return len(ours & theirs) >= NEAR * len(ours | theirs)


@lru_cache(maxsize=4096)  # each prompt is compared with many
def _grams(text: str) -> frozenset[str]:
    folded = " ".join(text.casefold().split())
    return frozenset(folded[start : start + 4] for start in range(max(1, len(folded) - 3)))


def shipped_prompts(path: Path, count: int) -> list[str]:
    """The first `count` prompts of a shipped file."""
    return read_prompts(path)[:count]


def read_prompts(path: Path) -> list[str]:
    """Seed prompts of a file: JSON Lines with `input`, `prompt` or one user message; else text.

    Raises `SettingsError` as `file:line: reason` for a bad line, and for a file without prompts.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # some editors write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--divergence-seeds={path} cannot be read: {error}") from error
    is_json = path.suffix in (".jsonl", ".json")
    prompts = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            prompts.append(_from_json(line, path, number) if is_json else line.strip())
    if not prompts:
        raise SettingsError(f"{path} has no seed prompts; write one a line, or JSON Lines")
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
    for key in ("input", "prompt"):
        if isinstance(row.get(key), str) and row[key].strip():
            return str(row[key])
    messages = row.get("messages")
    if isinstance(messages, list) and len(messages) == 1 and isinstance(messages[0], dict):
        turn = messages[0]
        content = turn.get("content")
        if turn.get("role") == "user" and isinstance(content, str) and content.strip():
            return content
    return None
