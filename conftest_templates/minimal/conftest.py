"""When to use it: you have two models, and want to read at a glance how their answers differ.

How to run it: name both models in the ini file, then `pytest-divergence discover`. The report shows
beside each case what stands below for it. `pytest-divergence init` writes both files.

What it leaves to you: the categories. These kinds are a start; add what your users would see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_divergence import Case

REFUSALS = ("i can't", "i cannot", "i'm sorry", "i am sorry", "i'm unable", "i am unable")


@pytest.hookimpl(optionalhook=True)  # so that tests also run where the plugin is switched off
def pytest_divergence_categorise(case: Case) -> str | None:
    """Name how the models' answers to a prompt differ; reports show the name beside the case."""
    if case.completions is None:
        return None
    reference, candidate = case.completions.reference, case.completions.candidate
    if _refuses(candidate) and not _refuses(reference):
        return "the candidate refuses"
    if _refuses(reference) and not _refuses(candidate):
        return "the candidate no longer refuses"
    if len(candidate) > 2 * len(reference):
        return "the candidate says more than twice as much"
    if len(reference) > 2 * len(candidate):
        return "the candidate says less than half as much"
    return None


def _refuses(answer: str) -> bool:
    return answer.strip().lower().replace("’", "'").startswith(REFUSALS)
