"""Findings of a check, for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """Finding of one check."""

    level: Literal["ok", "note", "fail"]
    """`note`: nothing is wrong, but someone may want to know."""
    text: str
    """One sentence or so, safe to print."""
