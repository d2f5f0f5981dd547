"""The file that LLM Comparator shows: both models' answers side by side.

Format: github.com/PAIR-code/llm-comparator, README, "JSON Data Format".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_divergence.core.cases import Case, Completions
from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.json_files import strict_dumps
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.suites import StoredSuite
from pytest_divergence.exports.chosen_cases import Exported, cases_of

SUFFIXES = (".json",)
FIELDS = {
    "id": "string",
    "metric": "category",
    "kl": "number",
    "max_kl": "number",
    "behaviour": "category",
}
"""Fields shown beside the answers, and their types: numbers become histograms."""


def exported(suites: Sequence[StoredSuite]) -> Exported:
    """Return the file; A is the reference, B the candidate.

    Cases without answers are left out. `score` is null: it would say which answer is the better
    one, and a divergence does not. Raises SuiteError for suites of different pairs.
    """
    reference, candidate = _models(suites)
    cases = list(cases_of(suites))
    examples = [_example(case, case.completions) for case in cases if case.completions]
    if not examples:
        raise SuiteError(
            suites[0].suite.path,
            None,
            "no case has the models' answers, which LLM Comparator shows; measure the cases with "
            f"{setting('fill')}",
        )
    document = {
        "metadata": {
            "source_path": ", ".join(stored.suite.path.name for stored in suites),
            "custom_fields_schema": [
                {"name": name, "type": type_} for name, type_ in FIELDS.items()
            ],
        },
        "models": [{"name": reference}, {"name": candidate}],
        "examples": examples,
    }
    return Exported(
        strict_dumps(document, indent=2) + "\n",
        len(examples),
        tuple(case for case in cases if not case.completions),
    )


def _models(suites: Sequence[StoredSuite]) -> tuple[str, str]:
    """Return the names of the pair that all suites belong to."""
    pairs = {
        (stored.provenance.reference.spec, stored.provenance.candidate.spec)
        if stored.provenance
        else ("reference", "candidate"): stored.suite.path
        for stored in suites
    }
    if len(pairs) > 1:
        first, second, *_ = pairs.values()
        raise SuiteError(
            second, None, f"belongs to a different pair than {first}; export one pair at a time"
        )
    (pair,) = pairs
    return pair


def _example(case: Case, answers: Completions) -> dict[str, Any]:
    return {
        "input_text": _shown(case),
        "tags": list(case.tags),
        "output_text_a": answers.reference,
        "output_text_b": answers.candidate,
        "score": None,
        "individual_rater_scores": [],
        "custom_fields": {
            "id": case.id,
            "metric": case.kl and case.kl.metric,
            "kl": case.kl and case.kl.value,
            "max_kl": case.max_kl,
            "behaviour": case.behaviour,
        },
    }


def _shown(case: Case) -> str:
    """Return the prompt; of a chat, each turn with its role."""
    if len(case.turns) == 1:
        return case.text
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in case.turns)
