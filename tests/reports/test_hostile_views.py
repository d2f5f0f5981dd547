"""One hostile text in every string of every record, through every view: none of it is live."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import product
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from pytest_divergence.core.aggregates import Aggregate, Shift
from pytest_divergence.core.behaviours import Behaviour, Retelling
from pytest_divergence.core.calibration_record import CalibrationReport, InjectedNoise, Nuisance
from pytest_divergence.core.cases import Measurement
from pytest_divergence.core.comparison import (
    BehaviourDifference,
    CaseDifference,
    Differences,
    compare,
    side_of_run,
)
from pytest_divergence.core.evaluation_record import Evaluation, PromptEvaluation
from pytest_divergence.core.json_files import strict_dumps, strict_loads
from pytest_divergence.core.provenance import Provenance
from pytest_divergence.core.redaction import redacted
from pytest_divergence.core.report import Report, ReportCase, Run
from pytest_divergence.core.safe_text import printable
from pytest_divergence.core.training_record import TrainingRecord
from pytest_divergence.reports import aggregates, failures, github
from pytest_divergence.reports.calibration import calibration_lines
from pytest_divergence.reports.comparison import difference_lines
from pytest_divergence.reports.evaluation import evaluation_view
from pytest_divergence.reports.html import Earlier, render_html
from pytest_divergence.reports.markdown import render_markdown
from pytest_divergence.reports.terminal import summary_lines
from pytest_divergence.reports.training import plan_line, training_lines
from tests.hostile import (
    HALF,
    HOSTILE,
    Elements,
    faults_in,
    faults_in_markdown,
    filled,
    hidden_in,
)
from tests.reports.made_reports import report as made_report

PLACE = HOSTILE + HALF
"""A path, which may hold more than a record may."""


def cases() -> list[ReportCase]:
    """One of each verdict, over its bound and without any, and one set apart."""
    verdicts = ("failed", "passed", "error", "inconclusive")
    found = [
        filled(ReportCase, input=f"{index} {HOSTILE}", verdict=verdict, off_distribution=False)
        for index, verdict in enumerate(verdicts)
    ]
    apart = filled(ReportCase, input=f"apart {HOSTILE}", max_kl=None, verdict="passed")
    return [*found, apart]


def reports() -> Iterator[Report]:
    """Runs of each mode and status, and with settings that decide what a view says."""
    for mode in ("search", "replay", HOSTILE):
        for status in ("complete", "incomplete"):
            yield filled(
                Report,
                run=filled(Run, mode=mode, status=status),
                cases=cases(),
                behaviours=[
                    filled(Behaviour, accepted=False),
                    filled(Behaviour, id="s", content=False, trait=None, accepted=False),
                    filled(Behaviour, id="t", content=False, motifs=[], accepted=True),
                    filled(Behaviour, id="b", motifs=[], confirmed=False),
                ],
                settings={HOSTILE: HOSTILE, "metric": HOSTILE, "fail_on": HOSTILE},
            )


REPORTS = list(reports())


@pytest.mark.parametrize("report", REPORTS)
def test_a_terminal(report: Report) -> None:
    for shown, verbosity in product((report, redacted(report)), (-1, 0, 1, 2)):
        lines = summary_lines(shown, verbosity=verbosity, report_path=PLACE, suite=PLACE)
        assert faults_in("\n".join(lines)) == []
        assert not [line for line in lines if "\n" in line]


def texts_of_failures() -> Iterator[str]:
    measurement, behaviour = filled(Measurement), filled(Behaviour)
    for verbosity in (0, 2):
        for case in cases():
            yield failures.failure_text(
                case,
                measurement=measurement,
                max_kl=0.1,
                noise_floor=0.1,
                tokens=case.tokens,
                rerun=PLACE,
                suite=PLACE,
                update=PLACE,
                verbosity=verbosity,
            )
    style = behaviour.model_copy(update={"content": False, "trait": None})
    for shown in (behaviour, style, style.model_copy(update={"trait": HOSTILE})):
        for retelling in (None, Retelling(9.0, 9.0, None), Retelling(9.0, 9.0, 0.5)):
            yield failures.behaviour_text(shown, retelling=retelling, rerun=PLACE, suite=PLACE)
    for breadth in ({}, {"breadth": None}):
        found = filled(Aggregate, **breadth)
        yield aggregates.aggregate_text(found, rerun=PLACE, update=PLACE)
        yield aggregates.aggregate_sentence(found)
    yield aggregates.shift_text(filled(Shift), rerun=PLACE)


def test_a_failure() -> None:
    for text in texts_of_failures():
        assert faults_in(text) == []


def test_other_views() -> None:
    calibration, differences = filled(CalibrationReport), filled(Differences)
    nothing = Differences(values=[], cases=[], behaviours=[], controls=None)
    config: dict[str, Any] = {
        "num_epochs": None,
        "num_virtual_tokens": 1,
        "position": HOSTILE,
        "batch_size": 1,
    }
    training = filled(TrainingRecord, settings={"config": config, HOSTILE: HOSTILE})
    metrics = {"kl_divergence": 1.0, "effectiveness": 1.0}
    failed = calibration.model_copy(
        update={
            "nuisances": [filled(Nuisance, mean=None, max=None)],
            "planted": [filled(InjectedNoise, values=[])],
        }
    )
    changed = differences.model_copy(
        update={
            "cases": [
                filled(CaseDifference, change=change) for change in ("added", "removed", "changed")
            ],
            "behaviours": [filled(BehaviourDifference, change="added", before=None)],
        }
    )

    for lines in (
        [plan_line(training)],
        training_lines(training, [{"prompt": HOSTILE, "metrics": metrics}]),
        calibration_lines(calibration),
        calibration_lines(failed),
        *(difference_lines(one, PLACE, PLACE) for one in (differences, nothing, changed)),
    ):
        assert faults_in("\n".join(lines)) == []
        assert not [line for line in lines if "\n" in line]


def test_an_evaluation() -> None:
    metrics = {"kl_divergence": 1.0, "perplexity_1": 1.0, HOSTILE: 1.0}
    evaluation = filled(Evaluation, prompts=[filled(PromptEvaluation, metrics=metrics)])
    shown = io.StringIO()

    Console(file=shown, width=100, color_system=None).print(evaluation_view(evaluation))

    assert faults_in(shown.getvalue()) == []
    assert "[red]" in shown.getvalue()


@pytest.mark.parametrize("report", REPORTS)
def test_a_page_in_markdown(report: Report) -> None:
    for shown in (report, redacted(report)):
        for suite in (None, PLACE):
            assert faults_in_markdown(render_markdown(shown, suite=suite)) == []


OUTCOMES = [
    filled(github.Outcome, verdict=verdict, id=PLACE, file=PLACE, text=text)
    for verdict in ("failed", HOSTILE)
    for text in ("", HOSTILE + HALF)
]


def test_a_step_of_a_job() -> None:
    for count in (1, len(OUTCOMES)):
        assert faults_in_markdown(github.outcomes_markdown(OUTCOMES[:count])) == []
    assert faults_in_markdown(github.fault_markdown(PLACE)) == []
    lines = [*github.failure_annotations(OUTCOMES), github.fault_annotation(PLACE)]
    assert faults_in("\n".join(lines), commands=lines) == []
    assert all(line.startswith("::error ") and line.isprintable() for line in lines)


@pytest.mark.parametrize("report", REPORTS[:2])
def test_a_page_in_a_browser(report: Report) -> None:
    ours = Elements(render_html(made_report(), suite="s"))
    compared = compare(side_of_run(made_report()), side_of_run(made_report()))
    ours.found |= Elements(render_html(made_report(), earlier=Earlier("a", compared))).found
    for earlier in (None, Earlier(PLACE, filled(Differences))):
        page = render_html(report, suite=PLACE, earlier=earlier)
        elements = Elements(page)
        assert hidden_in(page.replace("\t", "")) == set()
        assert elements.scripts == ours.scripts
        assert {one for one in elements.found if ".on" in one or one in ("img", "iframe")} == set()
        ElementTree.fromstring(_svgs(page))
        page.encode("utf-8")


def _svgs(page: str) -> str:
    """What stands in the page's charts, as one document of XML."""
    return f"<all>{''.join(re.findall('<svg.*?</svg>', page, re.DOTALL))}</all>"


def test_a_record_as_json() -> None:
    for record in (REPORTS[0], filled(Provenance), filled(CalibrationReport), filled(Differences)):
        value = record.model_dump(mode="json")
        text = strict_dumps(value, indent=2)
        assert hidden_in(text) == set()
        assert strict_loads(text) == value


def test_an_error_keeps_its_lines_and_loses_its_teeth() -> None:
    assert printable("a\n  ::error::x\x1b\nb::c") == "a\n  \\u{3a}:error::x\\u{1b}\nb::c"
    assert faults_in(printable(PLACE)) == []
