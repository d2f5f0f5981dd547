"""Checks of `doctor` that need torch: whether a device and a pair are fit for a search.

Faults of a pair's files are found by `pytest_divergence.models.preflight`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.findings import Finding
from pytest_divergence.core.provenance import provenance_beside
from pytest_divergence.core.quantities import amount, roughly
from pytest_divergence.discovery.cost import estimate_seconds, measure_speed, search_memory
from pytest_divergence.discovery.plan import chosen_contexts, with_contexts
from pytest_divergence.models.devices import resolve_device
from pytest_divergence.models.load_plan import LoadPlan
from pytest_divergence.models.memory import available_memory
from pytest_divergence.models.pair import ModelPair, with_gradients
from pytest_divergence.models.preflight import inspect_pair
from pytest_divergence.models.quantisation import quantiser
from pytest_divergence.plugin.session import DivergenceSession


def device_finding(wanted: str) -> Finding:
    """Describe the requested device, or say why it cannot be used."""
    try:
        device = resolve_device(wanted)
    except DivergenceError as error:
        return Finding("fail", str(error))
    cores = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cores
    free = available_memory(str(device))
    memory = "" if free is None else f", {amount(free)} of memory free"
    return Finding("ok", f"device: {device}, {name}{memory}")


def pair_findings(session: DivergenceSession, *, is_measured: bool) -> Iterator[Finding]:
    """Yield findings about the session's pair, step by step; stops if a model is not local."""
    settings = session.resolved.settings
    said: list[str] = []
    session.say = said.append
    plan = session.pairs.resolve(session.models, is_offline=True)
    told = set()
    for finding in inspect_pair(plan):
        told.add(finding.text)
        yield finding
    if any(side.folder is None for side in plan.sides):
        return
    profile = settings.resolved_profile(plan.device.type)
    memory = search_memory(plan, profile, allowed=settings.memory_bytes)
    if memory is not None:
        memory.check()
        yield Finding("ok", f"a search needs {memory}")
    if is_measured:
        pair = session.pair()  # which says some of it again, and what only loading shows
        yield from (Finding("note", line) for line in said if line not in told)
        yield from _gradients(pair, plan)
    yield _time(session, plan, is_measured=is_measured)


def _gradients(pair: ModelPair, plan: LoadPlan) -> Iterator[Finding]:
    """Whether soft prompts can be trained on quantised weights, once they are loaded."""
    for side, planned in zip(pair.sides, plan.sides, strict=True):
        full = planned.full_model
        if full.folder is None or quantiser(full.raw_config) is None:
            continue
        if with_gradients(pair, side).passes_gradients():
            yield Finding("ok", f"gradients pass through {full.role}: soft prompts are trained")
        else:
            yield Finding(
                "note", f"no gradient passes through {full.role}: soft prompts are left out"
            )


def _time(session: DivergenceSession, plan: LoadPlan, *, is_measured: bool) -> Finding:
    settings = session.resolved.settings
    profile = settings.resolved_profile(plan.device.type)
    profile = with_contexts(profile, chosen_contexts(settings, profile), settings)
    if is_measured:
        found: tuple[float, str] | None = measure_speed(session.pair(), profile), "measured now"
    else:
        found = _remembered(session, plan)
    budget = f"profile {profile.name}, at most {profile.budget_tokens:,} forwarded tokens"
    if found is None:
        return Finding(
            "note",
            f"the time of a search is unknown before the first one; use --measure; {budget}",
        )
    speed, whence = found
    seconds = estimate_seconds(profile, speed, budget_seconds=settings.budget_seconds)
    rate = f"{speed:,.0f} a second {whence}"
    return Finding("ok", f"a search takes about {roughly(seconds)}: {budget}, {rate}")


def _remembered(session: DivergenceSession, plan: LoadPlan) -> tuple[float, str] | None:
    """Return the tokens a second of the pair's last search, if it ran on this device."""
    made = provenance_beside(session.own_suite)
    if made is None or made.device != str(plan.device) or not made.effort.seconds:
        return None
    return made.effort.tokens_forwarded / made.effort.seconds, "in its last search"
