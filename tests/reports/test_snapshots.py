"""What a user sees of three runs in each view, and of each table, as files to be read.

To renew them: `pytest tests/reports/test_snapshots.py --snapshot-update`, then read the diff.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from pytest_divergence.core.aggregates import Shift
from pytest_divergence.core.behaviours import Retelling
from pytest_divergence.core.cases import Case
from pytest_divergence.core.comparison import compare, side_of_run
from pytest_divergence.core.report import Report, ReportCase
from pytest_divergence.reports.aggregates import aggregate_text, shift_text
from pytest_divergence.reports.calibration import calibration_lines
from pytest_divergence.reports.cards import case_card
from pytest_divergence.reports.comparison import difference_lines
from pytest_divergence.reports.failures import behaviour_text, failure_text
from pytest_divergence.reports.github import failure_annotations, outcomes_markdown
from pytest_divergence.reports.html import Earlier, render_html
from pytest_divergence.reports.markdown import render_markdown
from pytest_divergence.reports.terminal import summary_lines
from tests.reports.made_reports import CASES, MAX_KL, REPORT_PATH, ROME, YES, measurement, report
from tests.reports.made_runs import ACCEPTED, NATURAL, clean, replay, search, stopped
from tests.reports.made_tables import (
    aggregate,
    calibration,
    evaluation,
    modest_calibration,
    outcomes,
)
from tests.reports.snapshot_files import Markdown, Page, Text

FOLDER = Path(__file__).parent / "__snapshots__" / Path(__file__).stem
SUITE = "cases.divergence.jsonl"
RUNS: dict[str, Callable[[], Report]] = {
    "search": search,
    "replay": replay,
    "clean": clean,
    "stopped": stopped,
}


def of_each_run(view: Callable[[Report], str], end: str = "") -> dict[str, Callable[[], str]]:
    """The views of all runs, by the run's name."""

    def of(make: Callable[[], Report]) -> Callable[[], str]:
        return lambda: view(make())

    return {f"{name}{end}": of(make) for name, make in RUNS.items()}


def summary(run: Report, verbosity: int = 0, **failed_tests: int) -> str:
    return "\n".join(
        summary_lines(
            run,
            verbosity=verbosity,
            report_path=REPORT_PATH,
            suite=SUITE,
            failed_tests=failed_tests,
        )
    )


def body(run: Report, earlier: Earlier | None = None) -> str:
    """What a page shows, without the shapes of its charts."""
    page = render_html(run, suite=SUITE, earlier=earlier)
    (shown,) = re.findall("<body>(.*)</body>", page, re.DOTALL)
    return re.sub("(<svg[^>]*>).*?</svg>", r"\1…</svg>", shown, flags=re.DOTALL)


def section(page: str, name: str) -> str:
    (found,) = re.findall(f'<section aria-labelledby="{name}">.*?</section>', page, re.DOTALL)
    return str(found)


def failure(case: Case, verbosity: int = 0, update: str | None = None) -> str:
    return failure_text(
        case,
        measurement=case.kl or measurement(0.31004, estimator="stored", num_continuations=1),
        max_kl=MAX_KL,
        noise_floor=1e-6 if case.kl else None,
        tokens=case.tokens if isinstance(case, ReportCase) else [],
        rerun=f"pytest '{SUITE}::{case.id}' --model-1 base --model-2 tuned",
        suite=SUITE,
        update=update,
        verbosity=verbosity,
    )


def compared() -> tuple[Report, Report]:
    """Two runs: in the second a case is new, one gone, one changed, a behaviour gone."""
    changed = ROME.model_copy(update={"kl": measurement(1.5)})
    new = ReportCase(input="Where is Oslo?", max_kl=MAX_KL, kl=measurement(0.9), verdict="failed")
    return report(), report(cases=[changed, *CASES[2:], new], behaviours=[])


def since(before: Report, after: Report) -> str:
    differences = compare(side_of_run(before), side_of_run(after))
    return section(body(after, Earlier("first", differences)), "compared")


def differences(before: Report, after: Report) -> str:
    found = compare(side_of_run(before), side_of_run(after))
    return "\n".join(difference_lines(found, "before", "after"))


UPDATE = f"pytest {SUITE} --model-1 base --model-2 tuned --divergence-update"
behaviour_failure = partial(behaviour_text, rerun=f"pytest {SUITE}::behaviour", suite=SUITE)
aggregate_failure = partial(aggregate_text, rerun=f"pytest {SUITE}::aggregate", update=UPDATE)

TEXTS: dict[str, Callable[[], str]] = {
    **of_each_run(summary),
    **of_each_run(partial(summary, verbosity=-1), "-quiet"),
    "search-verbose": lambda: summary(search(), 2, case=4, behaviour=1),
    "replay-verbose": lambda: summary(replay(), 1),
    "failure-of-a-case": lambda: failure(ROME, update=UPDATE),
    "failure-of-a-case-verbose": lambda: failure(ROME, verbosity=2),
    "failure-of-a-case-by-hand": lambda: failure(Case(input="Hello")),
    "failure-of-content": lambda: behaviour_failure(NATURAL, retelling=Retelling(9.0, 12.0, 0.5)),
    "failure-of-content-under-a-context": lambda: behaviour_failure(ACCEPTED, retelling=None),
    "failure-of-style": lambda: behaviour_failure(YES, retelling=None),
    "failure-of-all-rows": lambda: aggregate_failure(aggregate()),
    "failure-of-a-shift": lambda: shift_text(
        Shift(mean=0.412, limit=0.15, num_rows=64), rerun=f"pytest {SUITE}::shift"
    ),
    "github-annotations": lambda: "\n".join(failure_annotations(outcomes())),
    "comparison": lambda: differences(*compared()),
    "calibration": lambda: "\n".join(calibration_lines(calibration())),
    "calibration-modest": lambda: "\n".join(calibration_lines(modest_calibration())),
    "evaluation": lambda: str(evaluation()),
    "evaluation-bare": lambda: str(evaluation(ordinary=None, differences=[])),
}
DOCUMENTS: dict[str, Callable[[], str]] = {
    **of_each_run(partial(render_markdown, suite=SUITE)),
    "github-summary": lambda: outcomes_markdown(outcomes()),
}
PAGES: dict[str, Callable[[], str]] = {
    **of_each_run(body),
    "comparison": lambda: since(*compared()),
    "comparison-of-equals": lambda: since(report(), report()),
    "card": lambda: case_card(ROME).replace("<tr>", "\n<tr>"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text(name: str, snapshot: SnapshotAssertion) -> None:
    assert with_end(TEXTS[name]()) == snapshot(extension_class=Text)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_markdown(name: str, snapshot: SnapshotAssertion) -> None:
    assert with_end(DOCUMENTS[name]()) == snapshot(extension_class=Markdown)


@pytest.mark.parametrize("name", PAGES)
def test_page(name: str, snapshot: SnapshotAssertion) -> None:
    assert with_end(PAGES[name]()) == snapshot(extension_class=Page)


def with_end(text: str) -> str:
    """A text as a file holds it."""
    return text.strip("\n") + "\n"


def test_each_file_is_of_a_view() -> None:
    """Whichever options the session has."""
    names = (
        *(f"test_text[{name}].txt" for name in TEXTS),
        *(f"test_markdown[{name}].md" for name in DOCUMENTS),
        *(f"test_page[{name}].html" for name in PAGES),
    )
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(names)
