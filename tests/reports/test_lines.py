"""Plain views keep to 80 columns whatever the text, hide nothing, and count what they cut."""

from __future__ import annotations

from unicodedata import category

import pytest

from pytest_divergence.core.calibration_record import Nuisance
from pytest_divergence.core.report import PairSummary, Report, ReportCase
from pytest_divergence.core.safe_text import HIDDEN
from pytest_divergence.reports.calibration import calibration_lines
from pytest_divergence.reports.failures import failure_text
from pytest_divergence.reports.markdown import render_markdown
from pytest_divergence.reports.terminal import summary_lines
from pytest_divergence.reports.text_blocks import columns
from tests.reports.made_reports import (
    CASES,
    HOSTILE,
    HOSTILE_CASES,
    MAX_KL,
    REPORT_PATH,
    case,
    chat_case,
    hostile_report,
    measurement,
    report,
)
from tests.reports.made_runs import replay, search, stopped
from tests.reports.made_tables import calibration


def check(lines: list[str], width: int = 80) -> None:
    for line in lines:
        assert "\n" not in line
        is_command = line.startswith(("  pytest", "    pytest"))  # one word may be too long
        assert is_command or columns(line) <= width, line
        assert not any(category(character) in HIDDEN for character in line), line
        assert "##[" not in line
        assert not line.lstrip().startswith("::")
        assert line == line.rstrip()


def summary(shown: Report, verbosity: int = 0) -> list[str]:
    return summary_lines(shown, verbosity=verbosity, report_path=REPORT_PATH, suite="s.jsonl")


@pytest.mark.parametrize("verbosity", [0, 2])
def test_a_failure(verbosity: int) -> None:
    for shown in (*CASES, *HOSTILE_CASES, chat_case()):
        text = failure_text(
            shown,
            measurement=shown.kl or measurement(1.0),
            max_kl=MAX_KL,
            noise_floor=1e-6,
            tokens=shown.tokens if isinstance(shown, ReportCase) else [],
            rerun=f"pytest 's.jsonl::{shown.id}' --model-1 base --model-2 tuned",
            suite="s.jsonl",
            verbosity=verbosity,
        )
        check(text.split("\n"))


@pytest.mark.parametrize("verbosity", [0, 1, 2])
def test_a_summary(verbosity: int) -> None:
    hostile = hostile_report().model_copy(update={"pair": report().pair})
    for shown in (search(), replay(), stopped(), hostile):
        check(summary(shown, verbosity))


def test_hostile_names_of_models_and_files() -> None:
    lines = summary_lines(hostile_report(), report_path="a\n::error::b", suite=HOSTILE)
    check(lines, width=10_000)


def test_a_calibration() -> None:
    pair = PairSummary(
        reference="models/" + "x" * 200,
        candidate="a\n::error::b",
        dtype="bfloat16",
        device="cuda:0",
        chat_template="none",
    )
    nuisance = Nuisance(kind="device", setting="cpu", reason="RuntimeError: " + "no kernel " * 20)
    lines = calibration_lines(calibration(pair=pair, nuisances=[nuisance]))

    check(lines)
    assert "  same weights, cpu device: not measured" in lines


def test_of_many_failed_cases_the_first_are_shown_and_the_others_counted() -> None:
    shown = report(cases=[case(f"Tell me about river {i}", 4 - i / 10) for i in range(25)])

    lines, markdown = summary(shown), render_markdown(shown)

    assert lines[lines.index("  20 more in the report, or with -v") - 1].endswith("river 4")
    assert "river 24" in "\n".join(summary(shown, verbosity=1))
    assert markdown.count("|failed|") == 25
    assert markdown.count("Prompt (user):") == 20
    assert "5 more failed cases are in report.html." in markdown


def test_an_empty_report_has_a_summary() -> None:
    bare = report(cases=[], behaviours=[], calibration={})
    assert summary(bare)[0].startswith("No prompt over the bound: 312 prompts scored")
