"""When to use it: the candidate changes often; search it at night, replay the finds in every pull
request.

How to run it: copy both workflows. `nightly.yml` searches and proposes what it found as a suite, in
a pull request; once that is merged, `divergence.yml` replays it on all others. A red night means
that the search failed, whether or not the models differ.

What it leaves to you: reading the pull request. If you merge it, the candidate may keep doing what
it does now. If a row shows a fault, don't keep it as a test: fix the bug. Pull requests opened with
GitHub's own token start no workflow: set the secret NIGHTLY_TOKEN for that.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_divergence import Report

SUMMARY = "nightly.md"
"""Text of the pull request. It holds no model output, which might mention people or be long.

If no case was kept, there is nothing to propose, and it is not written.
"""


@pytest.hookimpl(optionalhook=True)  # so that tests also run where the plugin is switched off
def pytest_divergence_report(config: pytest.Config, report: Report) -> None:
    """Summarise a search in a few lines."""
    if report.run.mode != "search" or not report.has_cases:
        return
    counts = report.verdict_counts
    lines = [
        f"Candidate `{report.pair.candidate}` at {os.environ.get('GITHUB_SHA', 'no commit')}.",
        f"{report.effort.prompts_scored} prompts scored; {counts.get('failed', 0)} of "
        f"{sum(counts.values())} cases over their bound.",
        "",
        *(
            f"- {'style' if behaviour.is_style else 'behaviour'} `{behaviour.id}`"
            for behaviour in report.behaviours
            if behaviour.confirmed
        ),
    ]
    (config.rootpath / SUMMARY).write_text("\n".join(lines) + "\n", "utf-8")
