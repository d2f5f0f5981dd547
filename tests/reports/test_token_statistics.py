"""Divergence at single tokens, as each view of a run shows it."""

from __future__ import annotations

import re
from html import unescape

from pytest_divergence.core.report import Calibration, Report
from pytest_divergence.core.token_statistics import TokenStatistics
from pytest_divergence.reports.html import render_html
from pytest_divergence.reports.markdown import render_markdown
from pytest_divergence.reports.terminal import summary_lines
from tests.reports.made_reports import REPORT_PATH, SUITE, report

STATISTICS = TokenStatistics(
    mean_kld=0.00812,
    mean_kld_se=0.00031,
    median_kld=0.0021,
    p90_kld=0.019,
    p99_kld=0.094,
    p999_kld=0.41,
    max_kld=0.52,
    rms_delta_p=0.0213,
    same_top=0.9434,
    ln_ppl_ratio=-0.0004,
    ln_ppl_ratio_se=None,
    num_tokens=2048,
    num_controls=64,
)
ROWS = """\
mean KLD      0.008120 ± 0.000310
median KLD    0.002100
90.0% KLD     0.019000
99.0% KLD     0.094000
99.9% KLD     0.410000
maximum KLD   0.520000
RMS Δp        2.130 %
same top p    94.34 %
ln PPL ratio  -0.000400
"""


def searched(**changes: str) -> Report:
    found = STATISTICS.model_copy(update=changes)
    return report(calibration=Calibration(token_statistics=found))


def summary(shown: Report, verbosity: int) -> str:
    lines = summary_lines(shown, verbosity=verbosity, report_path=REPORT_PATH, suite=SUITE)
    return "\n".join(lines)


def test_the_terminal_s_details_hold_a_block() -> None:
    title = "Tokens of ordinary answers, in llama.cpp's words:\n"
    rows = "".join(f"  {line}\n" for line in ROWS.splitlines())
    scope = (
        "  (2,048 tokens of both models' answers to 64 controls; ln PPL ratio: the\n"
        "  reference's alone)\n"
    )

    assert title + rows + scope in summary(searched(), 1)
    assert "KLD" not in summary(searched(), 0)


def test_estimates_of_a_server_are_said_to_be_estimates() -> None:
    shown = " ".join(summary(searched(evidence="head:64"), 1).split())

    assert "KLD is estimated (head:64)" in shown


def test_the_pages_hold_the_same_numbers() -> None:
    rows = [re.split("  +", line) for line in ROWS.splitlines()]
    markdown, page = render_markdown(searched()), unescape(render_html(searched()))

    assert "## Tokens of ordinary answers, in llama.cpp's words\n" in markdown
    for name, value in rows:
        assert f"|{name}|{value}|" in markdown
        assert f'<tr><td>{name}</td><td class="n">{value}</td></tr>' in page
    assert "KLD" not in render_markdown(report())
