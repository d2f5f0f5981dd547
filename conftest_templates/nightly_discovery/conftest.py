"""When to use it: the candidate changes often; search it at night, replay the finds in every pull
request.

How to run it: copy both workflows. `nightly.yml` searches, makes a suite of what it found and
proposes it in a pull request; once that is merged, `divergence.yml` replays it on all others. A red
night means that the search could not be done, not that it found something, nor that it found
nothing.

What it leaves to you: reading the pull request. Merging it says that what the candidate does now is
what it may go on doing; a row that is a fault is no test to keep but a bug to mend. Pull requests
that GitHub's own token opens start no workflow: give the secret NIGHTLY_TOKEN for that.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_divergence import Report

SUMMARY = "nightly.md"
"""Text of the pull request; holds no model's words, which might mention people or run on.

Where no case was kept there is nothing to propose, and it is not written.
"""


@pytest.hookimpl(optionalhook=True)  # so that tests also run where the plugin is switched off
def pytest_divergence_report(config: pytest.Config, report: Report) -> None:
    """Say in a few lines what a search came to."""
    if not report.has_cases:
        return
    counts = report.verdict_counts
    lines = [
        f"Candidate `{report.pair.candidate}` at {os.environ.get('GITHUB_SHA', 'no commit')}.",
        f"{report.effort.prompts_scored} prompts scored; {counts.get('failed', 0)} of "
        f"{sum(counts.values())} cases over their bound.",
        "",
        *(f"- {one.kind} behaviour `{one.id}`" for one in report.behaviours if one.confirmed),
    ]
    (config.rootpath / SUMMARY).write_text("\n".join(lines) + "\n", "utf-8")
