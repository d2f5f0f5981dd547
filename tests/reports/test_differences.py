"""Types of difference in each view: a p-value only where the type was fixed beforehand."""

from __future__ import annotations

from pytest_divergence.core.report import Difference
from pytest_divergence.reports.html import render_html
from pytest_divergence.reports.markdown import render_markdown
from pytest_divergence.reports.terminal import summary_lines
from tests.reports.made_reports import REPORT_PATH, SUITE, report

NOTE = "No p-value for “says a new phrase”: its phrases were chosen in these answers."
TESTED = Difference(
    name="refuses",
    explanation="it declines",
    candidate_count=9,
    reference_count=1,
    num_prompts=106,
    p_value=0.21,
)
COUNTED = Difference(
    name="says a new phrase",
    explanation="a phrase",
    candidate_count=12,
    reference_count=0,
    num_prompts=106,
    p_value=None,
)


def test_new_phrases_are_counted_without_a_p_value() -> None:
    shown = report(differences=[COUNTED, TESTED])

    markdown, page = render_markdown(shown), render_html(shown)

    rows = "|says a new phrase: a phrase|12|0|-|\n|refuses: it declines|9|1|0.21|\n"
    tests = "Over 106 distinct prompts; p from a sign test, corrected for the number of types."
    assert f"{rows}\n{tests}\n\n{NOTE}\n" in markdown
    assert '<td class="n">12</td><td class="n">0</td><td class="n">-</td></tr>' in page
    assert '<td class="n">9</td><td class="n">1</td><td class="n">0.21</td></tr>' in page
    assert f"corrected for the number of types. {NOTE}</p>" in page
    terminal = summary_lines(shown, verbosity=1, report_path=REPORT_PATH, suite=SUITE)
    start = terminal.index(
        "differences (candidate : reference, of 106 prompts): says a new phrase 12 : 0,"
    )
    assert terminal[start + 1 : start + 3] == ["refuses 9 : 1", NOTE]


def test_without_new_phrases_nothing_is_said_of_them() -> None:
    shown = report(differences=[TESTED])

    assert "No p-value" not in render_markdown(shown)
    assert "No p-value" not in render_html(shown)
