"""When to use it: you release a LoRA adapter that should change one subject and nothing else.

How to run it: name the base and the adapter's folder in the ini file, your subject below, and
prompts of both kinds in `tests/in_scope.txt` and `tests/out_of_scope.txt`, one per line. `pytest`
asserts what the adapter does on them; `pytest-divergence discover` looks for the unexpected.

What it leaves to you: the three numbers. Run `pytest -v` once with an adapter that you trust, and
set them from its values; `pytest-divergence calibrate` shows how far above the noise they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_divergence import Case

SUBJECT = re.compile(r"\b(refund|invoice|subscription)s?\b", re.IGNORECASE)
SUBJECT_MAX_KL = 5.0
"""Bound of what a search finds on the subject, nats per token: the adapter should differ there."""
PROMPTS = Path(__file__).parent / "tests"


@pytest.hookimpl(optionalhook=True)  # so that tests also run where the plugin is switched off
def pytest_divergence_modify_cases(cases: list[Case]) -> None:
    """Tag what a search finds on the subject, and give it the wider bound."""
    for index, case in enumerate(cases):
        if SUBJECT.search(case.text):
            max_kl = max(SUBJECT_MAX_KL, case.max_kl or 0.0)
            cases[index] = case.with_changes(tags=(*case.tags, "in-scope"), max_kl=max_kl)


@pytest.fixture(scope="session")
def in_scope() -> list[str]:
    """Return the prompts on the subject."""
    return prompts("in_scope.txt")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `other_prompt` once for each prompt outside the subject."""
    if "other_prompt" in metafunc.fixturenames:
        metafunc.parametrize("other_prompt", prompts("out_of_scope.txt"))


def prompts(name: str) -> list[str]:
    """Return the lines of a file in `tests/`."""
    found = (PROMPTS / name).read_text("utf-8").splitlines()
    return [line for line in found if line.strip()]
