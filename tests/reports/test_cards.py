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


def test_a_hostile_case_is_text() -> None:
    usual = ["table", "caption", "tbody", *["tr", "th", "td"] * 3]

    card = case_card(filled(ReportCase, input=HOSTILE * 9))

    assert [name for name in elements(card) if name != "br"] == usual
    assert faults_in(card) == []
    assert "…</td>" in card
