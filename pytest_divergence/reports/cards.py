"""Views of a report and a case in a notebook: its page in a frame, and a card.

Pieces of HTML, in which every string is escaped and shows its hidden characters.
"""

from __future__ import annotations

from markupsafe import Markup

from pytest_divergence.core.report import Report, ReportCase
from pytest_divergence.core.safe_text import visible
from pytest_divergence.reports.html import render_html
from pytest_divergence.reports.wording import nats

HEIGHT = 640
"""Pixels of the frame; the page scrolls inside it."""
TEXT_LIMIT = 1000
"""Characters of each text on a card."""


def report_frame(report: Report) -> str:
    """Return the report's page in a frame, from which it can reach nothing of the notebook."""
    frame = Markup(
        '<iframe sandbox="allow-scripts" srcdoc="{}" title="report" '
        'style="width: 100%; height: {}px; border: 1px solid #8888"></iframe>'
    )
    return str(frame.format(render_html(report), HEIGHT))


def case_card(case: ReportCase) -> str:
    """Return a case's prompt, verdict and numbers, and both answers side by side."""
    facts = [str(case.verdict)]
    if case.kl is not None:
        facts.append(f"{case.kl.quantity} {nats(case.kl.value)} {case.kl.unit}")
    if case.max_kl is not None:
        facts.append(f"limit {nats(case.max_kl)}")
    rows = [("prompt", case.text)]
    if case.completions is not None:
        rows.append(("reference", case.completions.reference))
        rows.append(("candidate", case.completions.candidate))
    card = Markup("<table><caption style='text-align: left'>{}</caption><tbody>{}</tbody></table>")
    return str(card.format(visible(", ".join(facts)), Markup().join(_row(*row) for row in rows)))


def _row(name: str, text: str) -> Markup:
    # A line break could put what a CI runner obeys at the start of a line.
    lines = Markup("<br>").join(map(visible, text[:TEXT_LIMIT].splitlines()))
    return Markup(
        "<tr><th scope='row'>{}</th>"
        "<td style='text-align: left; white-space: pre-wrap' dir='auto'>{}</td></tr>"
    ).format(name, lines + "…" * (len(text) > TEXT_LIMIT))
