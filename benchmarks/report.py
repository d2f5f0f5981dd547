"""Building and opening the HTML report of 200 cases: python benchmarks/report.py

With the path of a report.json: its cases, over and over. The page is opened in a headless Chromium,
where there is one, in a window of 1180 x 900.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_divergence.core.cases import Completions, Measurement, Origin
from pytest_divergence.core.provenance import Bound
from pytest_divergence.core.report import (
    Calibration,
    PairSummary,
    Report,
    ReportCase,
    Run,
    ShiftDistribution,
    TokenComparison,
    load_report,
)
from pytest_divergence.reports.html import render_html

NUM_CASES, NUM_TOKENS, NUM_RUNS = 200, 32, 7
"""As many tokens as a continuation of profile default has."""
WORDS = (
    "the",
    "a",
    "to",
    "of",
    "in",
    "is",
    "for",
    "on",
    "with",
    "city",
    "hotel",
    "museum",
    "river",
)
ANSWER = " ".join(WORDS) * 2
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


def made_cases() -> Iterator[ReportCase]:
    """Cases of usual size, each token with five alternatives of either model."""
    for number in range(NUM_CASES):
        value = 0.05 + number / 50
        yield ReportCase(
            input=f"What should I see in the city of number {number}, and where should I stay?",
            max_kl=1.0,
            kl=Measurement(
                value=value,
                metric="symmetric",
                forward=value,
                reverse=value,
                js=value / 4,
                sd=value / 3,
                max_token=3 * value,
                num_tokens=4 * NUM_TOKENS,
                num_continuations=4,
                estimator="fresh",
            ),
            completions=Completions(reference=ANSWER, candidate=ANSWER),
            origin=Origin(strategy="soft_prompt", search_kl=value),
            verdict="failed" if value > 1 else "passed",
            prompt_nll=3.0,
            tokens=[made_token(value * (i % 7) / 3, i) for i in range(NUM_TOKENS)],
        )


def made_token(kl: float, place: int) -> TokenComparison:
    rivals = [f" {WORDS[(place + i) % len(WORDS)]}" for i in range(5)]
    return TokenComparison(
        text=rivals[0],
        forward_kl=kl,
        reverse_kl=kl,
        reference_p=0.2,
        candidate_p=0.7,
        reference_top=[(text, 0.4 / (i + 1)) for i, text in enumerate(rivals)],
        candidate_top=[(text, 0.7 / (i + 1)) for i, text in enumerate(rivals)],
    )


def made_report() -> Report:
    return Report(
        run=Run(id="benchmark", mode="search", status="complete"),
        pair=PairSummary(
            reference="base", candidate="tuned", dtype="float32", device="cpu", chat_template="none"
        ),
        calibration=Calibration(
            bound=Bound(value=1.0),
            typical_shift=ShiftDistribution(
                mean=0.1, p99=0.5, max=0.5, num_controls=256, values=[0.002 * i for i in range(256)]
            ),
        ),
        cases=list(made_cases()),
    )


def repeated(report: Report) -> Report:
    """The report with its tested cases until there are enough."""
    tested = [case for case in report.cases if not case.off_distribution]
    cases = [
        tested[i % len(tested)].with_changes(input=f"{tested[i % len(tested)].text} ({i})")
        for i in range(NUM_CASES)
    ]
    return report.model_copy(update={"cases": cases})


def seconds_of(work: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(NUM_RUNS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return times


def first_paints(page: Path) -> list[float]:
    """Milliseconds from the start of navigation to the first contentful paint."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, CHROMIUMS)))
    paints = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(NUM_RUNS):
            context = browser.new_context(viewport={"width": 1180, "height": 900})
            tab = context.new_page()
            tab.goto(page.as_uri())
            script = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            paints.append(float(tab.evaluate(script)))
            context.close()
        browser.close()
    return paints


def shown(values: list[float], form: str) -> str:
    low, middle, high = (
        form.format(one) for one in (min(values), statistics.median(values), max(values))
    )
    return f"median {middle} (min {low}, max {high}, {len(values)} runs)"


def main() -> None:
    report = repeated(load_report(sys.argv[1])) if len(sys.argv) > 1 else made_report()
    source = render_html(report)  # the first one also reads the templates
    print(f"{len(report.cases)} cases, {sum(len(case.tokens) for case in report.cases)} tokens")
    print(f"built: {shown(seconds_of(lambda: render_html(report)), '{:.2f} s')}")
    print(f"size: {len(source.encode()) / 1e6:.2f} MB")
    if any(map(shutil.which, CHROMIUMS)):
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder, "report.html")
            page.write_text(source, "utf-8")
            print(f"first contentful paint: {shown(first_paints(page), '{:.0f} ms')}")


if __name__ == "__main__":
    main()
