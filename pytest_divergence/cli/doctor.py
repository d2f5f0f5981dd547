"""`pytest-divergence doctor`: whether this machine, and a pair on it, are fit for a search."""

from __future__ import annotations

import os
import platform
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_divergence.cli._settings import add_settings, pytest_words
from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.models.preflight import Finding

if TYPE_CHECKING:
    import pytest
    from packaging.requirements import Requirement

    from pytest_divergence.core.settings import Profile, Settings
    from pytest_divergence.models.load_plan import LoadPlan
    from pytest_divergence.plugin.session import DivergenceSession


FIELDS = (
    *("model_1", "model_2", "profile", "budget", "num_cases", "chat_template", "system_prompt"),
    *("device", "dtype", "memory"),
)
LABELS = {"ok": "ok", "note": "note", "fail": "FAIL"}
INDENT = 6

DISTRIBUTION = "pytest-divergence"
OPTIONAL = (("peft", "peft", "adapters"), ("datasets", "hf", "seeds from hf:DATASET"))
"""Packages that some users need, the extra that brings each, and what it is for."""


def add(parser: ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Check this machine: packages, device, memory and folders. Of two models, named here, in "
        "the environment or in the ini file, check also whether they would load and fit, and how "
        "long a search would take: from their files, without their weights, and without a "
        "download. Exit code 1: something is wrong."
    )
    add_settings(parser, FIELDS)
    parser.add_argument(
        "--measure",
        action="store_true",
        help="load both models, and measure how fast they are here",
    )
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Print what is found, as it is found."""
    from pytest_divergence.cli._project import in_project

    return in_project(pytest_words(given, FIELDS), partial(_examine, given.measure))


def _examine(is_measured: bool, config: pytest.Config) -> int:
    from pytest_divergence.cli._project import configure
    from pytest_divergence.plugin.session import of

    configure(config)
    session = of(config)
    levels = set()
    for finding in _findings(session, is_measured=is_measured):
        levels.add(finding.level)
        print("\n".join(_lines(finding)), flush=True)
    return 1 if "fail" in levels else 0


def _lines(finding: Finding) -> list[str]:
    from pytest_divergence.reports.text_blocks import WIDTH

    return textwrap.wrap(
        finding.text,
        WIDTH,
        initial_indent=f"{LABELS[finding.level]:{INDENT}}",
        subsequent_indent=" " * INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _findings(session: DivergenceSession, *, is_measured: bool) -> Iterator[Finding]:
    from pytest_divergence.core.errors import DivergenceError
    from pytest_divergence.models.preflight import Finding
    from pytest_divergence.plugin.options import check_both_models
    from pytest_divergence.plugin.session import FOLDER

    check_both_models(session.given)
    yield from machine_findings(session.resolved.settings, session.root / FOLDER)
    if not session.has_models:
        yield Finding("note", "no models are named: --model-1 and --model-2 check a pair too")
        return
    try:
        yield from _pair_findings(session, is_measured=is_measured)
    except DivergenceError as error:
        yield Finding("fail", str(error))


def _pair_findings(session: DivergenceSession, *, is_measured: bool) -> Iterator[Finding]:
    from pytest_divergence.discovery.cost import search_memory
    from pytest_divergence.models.preflight import Finding, inspect_pair

    settings = session.resolved.settings
    plan = session.pairs.resolve(session.models, is_offline=True)
    yield from inspect_pair(settings, plan)
    if any(side.folder is None for side in plan.sides):
        return
    memory = search_memory(settings, plan)
    if memory is not None:
        memory.check()
        yield Finding("ok", f"a search needs {memory}")
    yield _time(session, plan, is_measured=is_measured)


def _time(session: DivergenceSession, plan: LoadPlan, *, is_measured: bool) -> Finding:
    from pytest_divergence.discovery.cost import estimate_seconds, roughly
    from pytest_divergence.models.preflight import Finding

    settings = session.resolved.settings
    profile = settings.resolved_profile(plan.device.type)
    found = _measured(session, profile) if is_measured else _remembered(session, plan)
    budget = f"profile {profile.name}, at most {profile.budget_tokens:,} forwarded tokens"
    if found is None:
        return Finding(
            "note", f"how long a search takes: known after one, or by --measure; {budget}"
        )
    speed, whence = found
    seconds = estimate_seconds(profile, speed, budget_seconds=settings.budget_seconds)
    rate = f"{speed:,.0f} a second {whence}"
    return Finding("ok", f"a search takes about {roughly(seconds)}: {budget}, {rate}")


def _measured(session: DivergenceSession, profile: Profile) -> tuple[float, str]:
    from pytest_divergence.discovery.cost import measure_speed

    return measure_speed(session.pair(), profile), "measured now"


def _remembered(session: DivergenceSession, plan: LoadPlan) -> tuple[float, str] | None:
    """Tokens a second of the pair's last search, where it ran on the device that is asked for."""
    from pytest_divergence.core.file_names import sidecar_path
    from pytest_divergence.core.provenance import load_provenance

    path = sidecar_path(session.own_suite, "provenance.json")
    if not path.is_file():
        return None
    made = load_provenance(path)
    if made.device != str(plan.device) or not made.effort.seconds:
        return None
    return made.effort.tokens_forwarded / made.effort.seconds, "in its last search"


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
    from pytest_divergence.core.files import CACHE_VARIABLE, user_cache_path

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
