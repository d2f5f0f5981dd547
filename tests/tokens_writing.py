"""A tokens file alone, without the suite that the package writes with it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pytest_divergence.core.json_files import write_rows
from pytest_divergence.core.tokens import StoredTokens


def write_tokens(path: Path, rows: Iterable[StoredTokens]) -> None:
    write_rows(path, (row.model_dump(mode="json") for row in rows))
