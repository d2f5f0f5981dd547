"""Quantised weights: llama.cpp's statistics on ordinary answers, and answers that are known.

    python benchmarks/quantised.py BITS_OR_CANDIDATE...

The demo's reference against its own linear layers, rounded to a number of bits with one scale a
row, or against a candidate's folder, whose gradients are tried, too. Ordinary prompts are 64
shipped controls; the items are benchmarks/known_answers.jsonl.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from gate import REFERENCE, SIZES, controls, rounded
from sides import local

from pytest_divergence import load_model_pair, score_prompts
from pytest_divergence.cli._session_arguments import TOLERANCE
from pytest_divergence.discovery.damage_test import compare_answers, read_items
from pytest_divergence.reports.token_statistics import statistics_rows
from pytest_divergence.scoring.control_tokens import control_tokens, token_statistics

ITEMS = Path(__file__).with_name("known_answers.jsonl")


class Quiet:
    """A listener that shows nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *given: None


def main() -> None:
    items, same = read_items(ITEMS), load_model_pair(REFERENCE, REFERENCE)
    for given in sys.argv[1:]:
        pair = rounded(same, int(given)) if given.isdigit() else load_model_pair(REFERENCE, given)
        found = token_statistics(
            [control_tokens(score) for score in score_prompts(pair, controls(), **SIZES)]
        )
        assert found is not None
        rows = ", ".join(f"{name} {value}" for name, value in statistics_rows(found))
        passes = local(pair.candidate).passes_gradients()
        print(f"\n{given}: gradients {'pass' if passes else 'do not pass'}; {rows}")
        report = compare_answers(pair, items, TOLERANCE, Quiet())
        print(
            f"right {report.num_reference_right} and {report.num_candidate_right} of "
            f"{report.num_items}, lost {report.num_lost}, won {report.num_won}, accuracy "
            f"{report.accuracy}, margin {report.margin}, detectable {report.detectable_loss}: "
            f"{report.verdict}",
            flush=True,
        )


if __name__ == "__main__":
    main()
