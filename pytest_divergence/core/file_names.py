"""Names of our files and folders, and paths as messages show them.

Knows names only; opens no file.
"""

from __future__ import annotations

import hashlib
import os
import re
from os import PathLike
from pathlib import Path

from pytest_divergence.core.safe_text import slug

AnyPath = str | PathLike[str]

FOLDER = ".divergence"
"""Folder in the root of a project that searches and reports write to."""
SUITES, JOURNAL, REPORTS, HUB = "suites", "journal", "reports", "hub"
"""Folders in it."""
LATEST = "latest"
"""Pointer, among the reports, to the last run's."""

SUITE_SUFFIX = ".divergence.jsonl"
TOKENS, PROVENANCE, REFERENCE = "tokens.jsonl", "provenance.json", "reference.json"
"""Endings of the names of the files beside a suite."""
REPORT = "report.json"
RECORD_SUFFIX = ".divergence-commit"
"""Ending of the name of the hidden file beside a suite while its files change."""


HUB_SUITES = (
    r"hf:(?P<dataset>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?(::.*)?"
)
"""Pattern of the suites of a dataset on the Hub: `hf:owner/name@revision`."""


def suite_path(root: Path, model_1: str, model_2: str) -> Path:
    """Return the path of the suite of this pair's search; the digest separates equal slugs."""
    pair = f"{model_1}\0{model_2}".encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(pair).hexdigest()[:8]
    stem = f"{_short(model_1)}--{_short(model_2)}-{digest}"
    return root / FOLDER / SUITES / f"{stem}{SUITE_SUFFIX}"


def is_suite(path: AnyPath) -> bool:
    """Whether a path is named as suites are."""
    return os.fspath(path).endswith(SUITE_SUFFIX)


def on_hub(path: AnyPath) -> re.Match[str] | None:
    """Return the parts of a path that names suites on the Hub; None for any other path.

    `hf:NAME:COLUMN`, which names prompts, is another.
    """
    # Compiled on use: every session of pytest imports this file.
    return re.fullmatch(HUB_SUITES, os.fspath(path), re.ASCII | re.DOTALL)


def is_on_hub(path: AnyPath) -> bool:
    """Whether a path names the suites of a dataset on the Hub."""
    return on_hub(path) is not None


def sidecar_path(suite: AnyPath, kind: str) -> Path:
    """Return the file beside a suite: `x.tokens.jsonl` for `x.divergence.jsonl`, `tokens.jsonl`."""
    path = Path(suite)
    stem = path.name.removesuffix(SUITE_SUFFIX) if is_suite(path) else path.stem
    return path.with_name(f"{stem}.{kind}")


def suite_files(suite: AnyPath) -> tuple[Path, Path, Path]:
    """Return the paths of the tokens, the provenance and the rows of a suite."""
    return sidecar_path(suite, TOKENS), sidecar_path(suite, PROVENANCE), Path(suite)


def suite_record(suite: AnyPath) -> Path:
    """Return the path of the file that lies beside a suite while its files change."""
    path = Path(suite)
    return path.with_name(f".{path.name.removesuffix(SUITE_SUFFIX)}{RECORD_SUFFIX}")


def suite_beside(path: Path) -> Path:
    """Return the suite that a file belongs to: its own path, or the suite beside it."""
    kinds = (TOKENS, PROVENANCE, REFERENCE)
    kind = next((kind for kind in kinds if path.name.endswith(f".{kind}")), None)
    return path.with_name(path.name.removesuffix(f".{kind}") + SUITE_SUFFIX) if kind else path


def from_here(path: Path) -> Path:
    """Return a path as messages show it, relative to the working directory."""
    try:
        return Path(os.path.relpath(path))
    except ValueError:  # another drive
        return path


def _short(spec: str) -> str:
    """Return the last part of a spec's name, which people call the model by."""
    name = spec.split(",")[0].rstrip("/").rsplit("/", 1)[-1]
    return slug(name)
