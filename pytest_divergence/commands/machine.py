"""What this machine has: packages, device, memory, and the plugin's files."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.findings import Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from pytest_divergence.core.settings import Settings

DISTRIBUTION = "pytest-divergence"
OPTIONAL = (("peft", "peft", "adapters"), ("datasets", "hf", "seeds from hf:DATASET"))
"""Packages that some users need, the extra that brings each, and what it is for."""


def machine_findings(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Packages, device and folders; `folder` is the project's `.divergence`."""
    yield from package_findings()
    yield _device(settings.device)
    yield _cache()
    held = f"{_size(folder)} in it" if folder.is_dir() else "not made yet"
    yield Finding("ok", f"results: {folder.name}, {held}")


def package_findings() -> Iterator[Finding]:
    """Versions of what the plugin needs, and what is missing or too old."""
    from packaging.requirements import Requirement

    required = [Requirement(one) for one in metadata.requires(DISTRIBUTION) or []]
    required = [one for one in required if not one.marker or one.marker.evaluate({"extra": ""})]
    found = {one.name: _version(one.name) for one in required}
    shown = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    here = f"{DISTRIBUTION} {_version(DISTRIBUTION)}, Python {platform.python_version()}"
    yield Finding("ok", here)
    yield Finding("ok", f"packages: {shown}")
    yield from (_lacking(one, found[one.name]) for one in required if _is_lacking(one, found))
    for name, extra, purpose in OPTIONAL:
        version = _version(name)
        there = version or f"is not there (pip install '{DISTRIBUTION}[{extra}]')"
        yield Finding("ok" if version else "note", f"{name} {there}, for {purpose}")


def _is_lacking(one: Requirement, found: dict[str, str | None]) -> bool:
    version = found[one.name]
    return version is None or not one.specifier.contains(version, prereleases=True)


def _lacking(one: Requirement, version: str | None) -> Finding:
    there = "is not there" if version is None else f"is {version}"
    return Finding("fail", f"{one.name} {there}; run: pip install '{one}'")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _device(wanted: str) -> Finding:
    import torch

    from pytest_divergence.discovery.cost import amount
    from pytest_divergence.models.devices import resolve_device
    from pytest_divergence.models.memory import available_memory

    try:
        device = resolve_device(wanted)
    except DivergenceError as error:
        return Finding("fail", str(error))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    free = available_memory(str(device))
    memory = "" if free is None else f", {amount(free)} of memory free"
    return Finding("ok", f"device: {device}, {name}{memory}")


def _processor() -> str:
    import torch

    return f"{torch.get_num_threads()} of {os.cpu_count()} cores"


def _cache() -> Finding:
    from pytest_divergence.core.store import CACHE_VARIABLE, user_cache_path

    path = user_cache_path()
    there = next(one for one in (path, *path.parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding(
            "fail", f"cache: {path} cannot be written; {CACHE_VARIABLE} names another folder"
        )
    held = f"{_size(path)} in it" if path.is_dir() else "not made yet"
    return Finding("ok", f"cache: {path}, {held}; {CACHE_VARIABLE} moves it")


def _size(folder: Path) -> str:
    from pytest_divergence.discovery.cost import amount

    return amount(sum(one.stat().st_size for one in folder.rglob("*") if one.is_file()))
