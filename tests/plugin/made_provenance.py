"""The provenance of a search of two models that lie in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_divergence.core.provenance import ModelProvenance, Provenance
from pytest_divergence.models.load_plan import resolve_pair


def provenance_of(reference: str | Path, candidate: str | Path, **changes: Any) -> Provenance:
    """What a search of the two would have written, but for what `changes` says."""
    divergence, theirs = (
        ModelProvenance(spec=one.spec, kind=one.kind, weights_sha256=one.weights_sha256)
        for one in resolve_pair(str(reference), str(candidate)).identities
    )
    made = {
        "tool_version": "0.1.0",
        "created": "2026-01-01T00:00:00",
        "key": "0" * 64,
        "reference": divergence,
        "candidate": theirs,
        "tokenizer_sha256": "0" * 64,
        "dtype": "float32",
        "device": "cpu",
    }
    return Provenance(**{**made, **changes})
