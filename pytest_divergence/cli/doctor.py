"""`pytest-divergence doctor`: whether this machine, and a pair on it, are fit for a search.

Checks packages and folders first, before it imports any package that may be missing; device and
pair come later (`pytest_divergence.cli._fitness`).
"""

from __future__ import annotations

import os
import platform
import textwrap
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pytest_divergence import cli
from pytest_divergence.cli._output import say_lines
from pytest_divergence.cli._project import begun, in_project, pytest_words
from pytest_divergence.core.errors import DivergenceError, StoreError
from pytest_divergence.core.file_names import FOLDER
from pytest_divergence.core.files import CACHE_VARIABLE, user_cache_path
from pytest_divergence.core.findings import Finding
from pytest_divergence.core.quantities import amount
from pytest_divergence.core.settings import Settings
from pytest_divergence.plugin.options import check_both_models
from pytest_divergence.plugin.session import DivergenceSession
from pytest_divergence.reports.text_blocks import WIDTH

LABELS = {"ok": "ok", "note": "note", "fail": "FAIL"}
INDENT = 6
DISTRIBUTION = "pytest-divergence"
OPTIONAL = (
    ("peft", "peft", "adapters"),
    ("datasets", "hf", "seeds from hf:DATASET"),
    ("httpx", "endpoints", "served models"),
)
"""Optional packages, the extra that installs each, and its purpose."""


def run(given: Namespace) -> int:
    """Print each finding at once."""
    return in_project(pytest_words(given), partial(_examine, given.measure))


def _examine(is_measured: bool, config: pytest.Config) -> int:
    session = begun(config)
    levels = set()
    for finding in _findings(session, is_measured=is_measured):
        levels.add(finding.level)
        say_lines(_lines(finding))
    return 1 if "fail" in levels else 0


def _lines(finding: Finding) -> list[str]:
    return textwrap.wrap(
        finding.text,
        WIDTH,
        initial_indent=f"{LABELS[finding.level]:{INDENT}}",
        subsequent_indent=" " * INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _findings(session: DivergenceSession, *, is_measured: bool) -> Iterator[Finding]:
    check_both_models(session.given)
    yield from _machine_findings(session.resolved.settings, session.root / FOLDER)
    if not session.has_models:
        yield Finding("note", "no models are set: add --model-1 and --model-2 to check a pair too")
        return
    try:
        yield from cli.part("_fitness").pair_findings(session, is_measured=is_measured)
    except DivergenceError as error:
        yield Finding("fail", str(error))


def _machine_findings(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Check packages, device and folders; `folder` is the project's `.divergence`."""
    yield from package_findings()
    yield cli.part("_fitness").device_finding(settings.device)
    yield _cache()
    held = f"{_size(folder)} in it" if folder.is_dir() else "does not exist yet"
    yield Finding("ok", f"results: {folder.name}, {held}")


def package_findings() -> Iterator[Finding]:
    """Yield the versions of required packages, and those that are missing or too old."""
    named = map(Requirement, metadata.requires(DISTRIBUTION) or [])
    required = [item for item in named if not item.marker or item.marker.evaluate({"extra": ""})]
    found = {requirement.name: _version(requirement.name) for requirement in required}
    shown = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    here = f"{DISTRIBUTION} {_version(DISTRIBUTION)}, Python {platform.python_version()}"
    yield Finding("ok", here)
    yield Finding("ok", f"packages: {shown}")
    for requirement in required:
        yield from _lacking(requirement, found[requirement.name])
    for name, extra, purpose in OPTIONAL:
        version = _version(name)
        there = version or f"is not installed (pip install '{DISTRIBUTION}[{extra}]')"
        yield Finding("ok" if version else "note", f"{name} {there}, for {purpose}")


def _lacking(requirement: Requirement, version: str | None) -> Iterator[Finding]:
    if version is not None and requirement.specifier.contains(version, prereleases=True):
        return
    there = "is not installed" if version is None else f"is {version}"
    yield Finding("fail", f"{requirement.name} {there}; run: pip install '{requirement}'")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cache() -> Finding:
    try:
        path = user_cache_path()
    except StoreError as error:
        return Finding("fail", f"cache: {error}")
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding(
            "fail", f"cache: {path} is not writable; set {CACHE_VARIABLE} to another folder"
        )
    held = f"{_size(path)} in it" if path.is_dir() else "does not exist yet"
    return Finding("ok", f"cache: {path}, {held}; set {CACHE_VARIABLE} to move it")


def _size(folder: Path) -> str:
    return amount(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
