"""A suite as it lies on disk, with the files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_divergence.core.provenance import Provenance
    from pytest_divergence.core.suites import Suite
    from pytest_divergence.core.tokens import StoredTokens


@dataclass(frozen=True)
class StoredSuite:
    """A suite and the files beside it."""

    suite: Suite
    provenance: Provenance | None
    tokens: Mapping[str, StoredTokens]
    """Continuations by case id; hand-written suites have none."""


def read_suite(path: Path) -> StoredSuite:
    """A suite with its provenance and tokens, where there are any. Raises SuiteError."""
    from pytest_divergence.core.provenance import load_provenance
    from pytest_divergence.core.suites import load_suite, sidecar_path
    from pytest_divergence.core.tokens import load_tokens

    provenance, tokens = (sidecar_path(path, kind) for kind in ("provenance.json", "tokens.jsonl"))
    return StoredSuite(
        load_suite(path),
        load_provenance(provenance) if provenance.is_file() else None,
        load_tokens(tokens) if tokens.is_file() else {},
    )
