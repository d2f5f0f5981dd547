"""What our files and folders are called, and how messages show a path.

Knows names only: touches no file but to tell where it lies.
"""

from __future__ import annotations

import hashlib
import os
from os import PathLike
from pathlib import Path

from pytest_divergence.core.safe_text import slug

AnyPath = str | PathLike[str]

FOLDER = ".divergence"
"""In the root folder of a project: what searches and reports leave there."""
SUITES, JOURNAL, REPORTS = "suites", "journal", "reports"
"""Its folders."""
LATEST = "latest"
"""Among the reports: the pointer to the last run's."""

SUITE_SUFFIX = ".divergence.jsonl"
TOKENS, PROVENANCE = "tokens.jsonl", "provenance.json"
"""What lies beside a suite, by the end of its name."""
REPORT = "report.json"
RECORD_SUFFIX = ".divergence-commit"
"""How the name of a hidden file beside a suite ends while its files change."""


def suite_path(root: Path, model_1: str, model_2: str) -> Path:
    """Where a search of this pair writes its suite; the digest tells apart equal slugs."""
    pair = f"{model_1}\0{model_2}".encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(pair).hexdigest()[:8]
    stem = f"{_short(model_1)}--{_short(model_2)}-{digest}"
    return root / FOLDER / SUITES / f"{stem}{SUITE_SUFFIX}"


def is_suite(path: AnyPath) -> bool:
    """Whether a path is named as suites are."""
    return os.fspath(path).endswith(SUITE_SUFFIX)


def sidecar_path(suite: AnyPath, kind: str) -> Path:
    """The file beside a suite: `x.divergence.jsonl` and `tokens.jsonl` give `x.tokens.jsonl`."""
    path = Path(suite)
    stem = path.name.removesuffix(SUITE_SUFFIX) if is_suite(path) else path.stem
    return path.with_name(f"{stem}.{kind}")


def suite_files(suite: AnyPath) -> tuple[Path, Path, Path]:
    """Where the tokens, the provenance and the rows of a suite lie."""
    return sidecar_path(suite, TOKENS), sidecar_path(suite, PROVENANCE), Path(suite)


def suite_record(suite: AnyPath) -> Path:
    """The file that stands beside a suite while its files change."""
    path = Path(suite)
    return path.with_name(f".{path.name.removesuffix(SUITE_SUFFIX)}{RECORD_SUFFIX}")


def suite_beside(path: Path) -> Path:
    """The suite that a file belongs to: its own path, or for another file the suite beside it."""
    kind = next((kind for kind in (PROVENANCE, TOKENS) if path.name.endswith(f".{kind}")), None)
    return path.with_name(path.name.removesuffix(f".{kind}") + SUITE_SUFFIX) if kind else path


def from_here(path: Path) -> Path:
    """A path as messages show it: from the working directory."""
    try:
        return Path(os.path.relpath(path))
    except ValueError:  # another drive
        return path


def _short(spec: str) -> str:
    """The last part of a spec's name: what people call the model."""
    name = spec.split(",")[0].rstrip("/").rsplit("/", 1)[-1]
    return slug(name)
