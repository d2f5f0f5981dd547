"""`pytest-divergence doctor`: whether this machine, and a pair on it, are fit for a search."""

from __future__ import annotations

import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from pytest_divergence.commands.settings import add_settings, pytest_words

if TYPE_CHECKING:
    import pytest

    from pytest_divergence.core.findings import Finding
    from pytest_divergence.core.settings import Profile
    from pytest_divergence.models.load_plan import LoadPlan
    from pytest_divergence.session import DivergenceSession

FIELDS = (
    *("model_1", "model_2", "profile", "budget", "num_cases", "chat_template", "system_prompt"),
    *("device", "dtype", "memory"),
)
LABELS = {"ok": "ok", "note": "note", "fail": "FAIL"}
INDENT = 6


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
    from pytest_divergence.commands.project import in_project

    return in_project(pytest_words(given, FIELDS), partial(_examine, given.measure))


def _examine(is_measured: bool, config: pytest.Config) -> int:
    from pytest_divergence.commands.project import configure
    from pytest_divergence.session import of

    configure(config)
    session = of(config)
    levels = set()
    for finding in _findings(session, is_measured=is_measured):
        levels.add(finding.level)
        print("\n".join(_lines(finding)), flush=True)
    return 1 if "fail" in levels else 0


def _lines(finding: Finding) -> list[str]:
    from pytest_divergence.reports.terminal import WIDTH

    return textwrap.wrap(
        finding.text,
        WIDTH,
        initial_indent=f"{LABELS[finding.level]:{INDENT}}",
        subsequent_indent=" " * INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _findings(session: DivergenceSession, *, is_measured: bool) -> Iterator[Finding]:
    from pytest_divergence.commands.machine import machine_findings
    from pytest_divergence.core.errors import DivergenceError
    from pytest_divergence.core.findings import Finding
    from pytest_divergence.option_values import check_both_models
    from pytest_divergence.session import FOLDER

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
    from pytest_divergence.core.findings import Finding
    from pytest_divergence.discovery.cost import search_memory
    from pytest_divergence.models.preflight import inspect_pair
    from pytest_divergence.pairs import Models

    settings = session.resolved.settings
    plan = session.pairs.resolve(Models(*session.models), is_offline=True)
    yield from inspect_pair(settings, plan)
    if any(side.folder is None for side in plan.sides):
        return
    memory = search_memory(settings, plan)
    if memory is not None:
        memory.check()
        yield Finding("ok", f"a search needs {memory}")
    yield _time(session, plan, is_measured=is_measured)


def _time(session: DivergenceSession, plan: LoadPlan, *, is_measured: bool) -> Finding:
    from pytest_divergence.core.findings import Finding
    from pytest_divergence.discovery.cost import estimate_seconds, roughly

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
    from pytest_divergence.core.provenance import load_provenance
    from pytest_divergence.core.suites import sidecar_path

    path = sidecar_path(session.own_suite, "provenance.json")
    if not path.is_file():
        return None
    made = load_provenance(path)
    if made.device != str(plan.device) or not made.effort.seconds:
        return None
    return made.effort.tokens_forwarded / made.effort.seconds, "in its last search"
