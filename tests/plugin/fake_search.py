"""A plugin for inner sessions: a search without models, so that moments can be tested.

Each search adds a line to `searches.log`; the environment variable FAKE_SEARCH says how it ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.cases import Case, Measurement
from pytest_divergence.core.errors import NoGradientError
from pytest_divergence.core.file_names import suite_path
from pytest_divergence.core.files import DivergenceFolder
from pytest_divergence.core.provenance import Bound, Effort
from pytest_divergence.core.report import (
    Calibration,
    Leads,
    PairSummary,
    PowerPoint,
    Report,
    ReportCase,
    Run,
    RunError,
    ShiftDistribution,
    write_report,
)
from pytest_divergence.core.settings import Settings
from pytest_divergence.core.suites import write_stored
from pytest_divergence.core.verdicts import judge
from pytest_divergence.discovery.run import SearchOutcome
from pytest_divergence.plugin import search as session_search
from tests.plugin.made_provenance import provenance_of
from tests.reports.made_reports import ZEPHYR

BOUND = 0.2
LEADS = Leads(watched=7, tested=4, level=0.05, decoys_confirmed=0)
POWER = [PowerPoint(share=0.1, power=0.29), PowerPoint(share=0.2, power=0.93)]
FOUND = {"How do I tie a knot?": 0.25, "Write a poem about rain.": 0.1}
"""Prompts that every fake search finds, with their KL."""


def pytest_configure(config: pytest.Config) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(session_search, "search", search)
    config.add_cleanup(patch.undo)


def search(
    settings: Settings,
    *,
    root: Path,
    load_pair: Callable[[], Any],
    engine: Any,
    listener: Any,
    identity: Any,
    strategies: Any,
    modify_cases: Callable[[list[Case]], None],
    on_report: Callable[[Report, Path], None],
    is_forced: bool,
) -> SearchOutcome:
    with (root / "searches.log").open("a") as log:
        log.write(f"search of {settings.model_2}{', forced' if is_forced else ''}\n")
    listener.say("looking")
    listener.progress("looking", 1, 2)
    ending = os.environ.get("FAKE_SEARCH", "found")
    if ending == "no gradient":
        raise NoGradientError("no gradient reached the soft prompt")
    if ending == "crash":
        raise RuntimeError("something broke\nin two lines")
    cases = [_case(prompt, kl) for prompt, kl in FOUND.items()]
    modify_cases(cases)
    behaviours = [ZEPHYR] if ending == "behaviour" else []
    moved = Path(settings.report_dir) if settings.report_dir is not None else None
    folder = DivergenceFolder(root, report_dir=moved)
    report_dir = folder.new_report_dir("run")
    report = _report(settings, cases, ending).model_copy(update={"behaviours": behaviours})
    write_report(report_dir / "report.json", report)
    on_report(report, report_dir)
    if ending == "interrupted":
        raise KeyboardInterrupt
    folder.suites  # noqa: B018  # makes it
    suite = suite_path(root, str(settings.model_1), str(settings.model_2))
    controls = [] if cases else [Case(input="Hello", tags=("control",))]
    provenance = provenance_of(
        str(settings.model_1),
        str(settings.model_2),
        bound=Bound(value=BOUND),
        behaviours=behaviours,
    )
    from tests.plugin.conftest import stored_tokens  # which loads a tokenizer

    tokens = [stored_tokens(case.text) for case in cases]
    write_stored(suite, [*cases, *controls], tokens, provenance)
    return SearchOutcome(report, report_dir, suite, "0" * 64, is_cached=False)


def _case(prompt: str, kl: float) -> Case:
    measurement = Measurement(
        value=kl,
        metric="symmetric",
        forward=kl,
        reverse=kl,
        js=kl / 4,
        sd=None,
        max_token=kl,
        num_tokens=8,
        num_continuations=1,
        estimator="fresh",
    )
    return Case(input=prompt, kl=measurement, max_kl=BOUND)


def _report(settings: Settings, cases: list[Case], ending: str) -> Report:
    rows = [
        ReportCase(**dict(case), verdict=judge(case.kl.value, BOUND))
        for case in cases
        if case.kl is not None
    ]
    is_complete = ending not in ("incomplete", "interrupted")
    errors = [RunError(where="soft_prompt", message="broke")] if ending == "errors" else []
    return Report(
        settings={"metric": settings.metric, "mode": settings.mode},
        run=Run(id="run", mode="search", status="complete" if is_complete else "incomplete"),
        pair=PairSummary(
            reference=str(settings.model_1),
            candidate=str(settings.model_2),
            dtype="float32",
            device="cpu",
            chat_template="reference",
        ),
        calibration=Calibration(
            bound=Bound(value=BOUND),
            typical_shift=ShiftDistribution(mean=0.01, p99=0.02, max=0.02, num_controls=64),
        ),
        cases=rows,
        leads=LEADS if is_complete else None,
        power=POWER if is_complete else None,
        errors=errors,
        effort=Effort(prompts_scored=312),
    )
