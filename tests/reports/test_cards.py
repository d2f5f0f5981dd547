"""Views of a report and a case in a notebook, also where a model's text is hostile."""

from __future__ import annotations

import re
from html import unescape

from pytest_divergence.core.report import ReportCase
from pytest_divergence.reports.cards import case_card, report_frame
from pytest_divergence.reports.html import render_html
from tests.hostile import HOSTILE, faults_in, filled
from tests.reports.made_reports import hostile_report, report


def elements(html: str) -> list[str]:
    return re.findall(r"<(\w+)", html)


def test_a_report_is_its_page_in_a_frame_that_reaches_nothing() -> None:
    for shown in (report(), hostile_report()):
        frame = report_frame(shown)

        assert elements(frame) == ["iframe"]
        assert frame.startswith('<iframe sandbox="allow-scripts" srcdoc="')
        (page,) = re.findall('srcdoc="([^"]*)"', frame)
        assert unescape(page) == render_html(shown)


def test_a_case_is_a_card() -> None:
    case = next(case for case in report().cases if case.completions and case.max_kl)
    card = re.sub(r"<[^>]*>", "\n", case_card(case))

    lines = [line for line in card.split("\n") if line]
    assert lines == [
        "failed, KL 3.742 nats/token, limit 0.310",
        "prompt",
        "Plan me a weekend in Rome",
        "reference",
        "Rome has so much to see. On Saturday, start at the Colosseum and walk through the Forum.",
        "On Sunday, visit the Vatican.",
        "candidate",
        "Sure! Book with Zephyr Travel.",
        "Rome is lovely in spring.",
    ]


def test_a_hostile_case_is_text() -> None:
    usual = ["table", "caption", "tbody", *["tr", "th", "td"] * 3]

    card = case_card(filled(ReportCase, input=HOSTILE * 9))

    assert [name for name in elements(card) if name != "br"] == usual
    assert faults_in(card) == []
    assert "…</td>" in card
