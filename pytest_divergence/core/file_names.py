"""Names of the files that belong to a pair of specs."""

from __future__ import annotations

import hashlib
import os
from os import PathLike
from pathlib import Path

from pytest_divergence.core.safe_text import slug

SUITE_SUFFIX = ".divergence.jsonl"

AnyPath = str | PathLike[str]


def suite_path(root: Path, model_1: str, model_2: str) -> Path:
    """Where a search of this pair writes its suite; the digest tells apart equal slugs."""
    digest = hashlib.sha256(f"{model_1}\0{model_2}".encode()).hexdigest()[:8]
    stem = f"{_short(model_1)}--{_short(model_2)}-{digest}"
    return root / ".divergence" / "suites" / f"{stem}{SUITE_SUFFIX}"


def _short(spec: str) -> str:
    """The last part of a spec's name: what people call the model."""
    name = spec.split(",")[0].rstrip("/").rsplit("/", 1)[-1]
    return slug(name)


def from_here(path: Path) -> Path:
    """A path as messages show it: from the working directory."""
    try:
        return Path(os.path.relpath(path))
    except ValueError:  # another drive
        return path


def sidecar_path(suite_path: AnyPath, kind: str) -> Path:
    """The file beside a suite: `x.divergence.jsonl` and `tokens.jsonl` give `x.tokens.jsonl`."""
    path = Path(suite_path)
    is_suite = path.name.endswith(SUITE_SUFFIX)
    stem = path.name[: -len(SUITE_SUFFIX)] if is_suite else path.stem
    return path.with_name(f"{stem}.{kind}")
