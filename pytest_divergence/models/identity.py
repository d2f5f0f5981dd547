"""Which model it is: for people, and for whatever is kept of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelIdentity:
    """What one model of a pair is: shown to people, and digested for caches."""

    spec: str
    kind: str
    weights_sha256: str
    commit: str | None = None
