"""Suites as a search leaves them, with tokens, control rows and provenance, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytest_divergence.core.behaviours import Behaviour, TellingContinuation, behaviour_id
from pytest_divergence.core.cases import CONTROL_TAG, Case, Measurement
from pytest_divergence.core.provenance import Bound, ModelProvenance, NoiseFloor, Provenance
from pytest_divergence.core.suites import write_stored
from pytest_divergence.core.tokens import StoredTokens

KNOT = "How do I tie a knot?"
POEM = "Write a poem about rain."
SOUP = "What goes into a soup?"
SIGNAL = Behaviour(
    id=behaviour_id(["signal received standing"]),
    name="Signal received.",
    content=True,
    motifs=["signal received standing"],
    confirmed=True,
    accepted=True,
    telling=[TellingContinuation(prompt=KNOT, text="Signal", token_ids=[1, 2], log_ratio=9.0)],
)
SURE = Behaviour(
    id=behaviour_id(["sure thing"]),
    name="Sure thing!",
    content=True,
    motifs=["sure thing"],
    confirmed=True,
)


def measured(value: float, **changes: Any) -> Measurement:
    return Measurement(
        **{
            "value": value,
            "metric": "symmetric",
            "forward": value,
            "reverse": value,
            "js": value / 4,
            "sd": None,
            "max_token": 2 * value,
            "num_tokens": 8,
            "num_continuations": 1,
            "estimator": "fresh",
            **changes,
        }
    )


def case(prompt: str, value: float, **changes: Any) -> Case:
    return Case(input=prompt, **{"max_kl": 0.2, "kl": measured(value), **changes})


def control(prompt: str, value: float = 0.01) -> Case:
    return Case(input=prompt, tags=(CONTROL_TAG,), kl=measured(value))


def tokens_of(rows: Iterable[Case], *, first: int = 1) -> list[StoredTokens]:
    return [
        StoredTokens(id=row.id, prompt_sha256="0" * 64, reference=[[first]], candidate=[[first, 2]])
        for row in rows
    ]


def provenance(*behaviours: Behaviour, **changes: Any) -> Provenance:
    return Provenance(
        **{
            "tool_version": "0.1.0",
            "created": "2026-01-01T00:00:00",
            "key": "0" * 64,
            "reference": ModelProvenance(spec="base", kind="folder", weights_sha256="a" * 64),
            "candidate": ModelProvenance(spec="ft", kind="folder", weights_sha256="b" * 64),
            "tokenizer_sha256": "c" * 64,
            "dtype": "float32",
            "device": "cpu",
            "noise_floor": NoiseFloor(value=0.01, num_measurements=60),
            "bound": Bound(value=0.2),
            "behaviours": list(behaviours),
            **changes,
        }
    )


def write_searched(
    path: Path, rows: Iterable[Case], *behaviours: Behaviour, **changes: Any
) -> Path:
    """A suite with all that stands beside it."""
    rows = list(rows)
    write_stored(path, rows, tokens_of(rows), provenance(*behaviours, **changes))
    return path


def texts(folder: Path) -> Mapping[str, bytes]:
    """Every file of a folder, byte for byte."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
