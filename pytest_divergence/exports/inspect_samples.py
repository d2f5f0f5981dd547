"""Samples of Inspect, one a line, as its `json_dataset` reads them.

Format: inspect.aisi.org.uk/datasets.html, `Sample`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_divergence.core.cases import Case
from pytest_divergence.core.json_files import strict_dumps
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.exports.chosen_cases import Exported, cases_of, details_of

SUFFIXES = (".jsonl",)
"""Inspect recognises JSON Lines by the name."""


def exported(suites: Sequence[StoredSuite]) -> Exported:
    """Return a sample for each case; its target is the reference's greedy answer, if known."""
    samples = [_sample(case) for case in cases_of(suites)]
    return Exported("".join(strict_dumps(sample) + "\n" for sample in samples), len(samples))


def _sample(case: Case) -> dict[str, Any]:
    return {
        "id": case.id,
        "input": case.input
        if case.messages is None
        else [turn.model_dump() for turn in case.turns],
        "target": case.completions.reference if case.completions is not None else "",
        "metadata": details_of(case),
    }
