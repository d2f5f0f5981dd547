"""What a suite's rows say together: the branches that no snapshot shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_divergence.core.aggregates import Breadth, Growth, Shift
from pytest_divergence.reports.aggregates import (
    aggregate_sentence,
    aggregate_text,
    shift_sentence,
)
from tests.reports.made_tables import GROWN, MANY_OVER, aggregate

SAME = replace(GROWN, ratio=1.0, low=1.0, high=1.0, p_value=0.0)
NOT_BELOW = replace(GROWN, ratio=1.3, low=1.1, high=1.54, p_value=0.66)
UNSURE = replace(GROWN, ratio=1.1, low=0.9, high=1.34, p_value=0.14)
FEW = replace(SAME, num_rows=6)
NONE_OVER = Breadth(num_over=0, num_rows=64, bound=0.31, upper=0.0457, p_value=0.0375)
ONE_ROW = Breadth(num_over=0, num_rows=1, bound=0.31, upper=0.95, p_value=0.95)
ANEW = "  intended? measure the suite again: pytest s --update"
ADVICE = "  add rows to decide it; with --divergence-inconclusive=pass it only warns"


@pytest.mark.parametrize(
    ("growth", "breadth", "verdict", "first"),
    [
        (GROWN, NONE_OVER, "failed", "worse: forward KL 1.62 x stored, at least 1.48 x"),
        (
            NOT_BELOW,
            NONE_OVER,
            "failed",
            "growth of forward KL not shown to be below 1.25 x: 1.30 x stored",
        ),
        (SAME, MANY_OVER, "failed", "7.8% of controls over the bound > 5%"),
        (FEW, MANY_OVER, "failed", "7.8% of controls over the bound > 5%"),
        (
            UNSURE,
            NONE_OVER,
            "inconclusive",
            "inconclusive: too little evidence to rule out broad change",
        ),
    ],
)
def test_the_worst_check_decides_and_the_first_line_names_only_what_failed(
    growth: Growth, breadth: Breadth, verdict: str, first: str
) -> None:
    found = aggregate(growth, breadth)
    lines = aggregate_text(found, rerun="pytest s::aggregate", update="pytest s --update").split(
        "\n"
    )

    assert (found.verdict, lines[0]) == (verdict, first)
    assert max(map(len, lines)) <= 80
    assert (ANEW in lines) == (growth.ratio > 1), "an update changes stored values, and no bound"
    assert (ADVICE in lines) == (verdict == "inconclusive")


BESIDE = "5 searched cases beside them: 0.05 x"
INSUFFICIENT = (
    "forward KL is 1.00 x the stored values, geometric mean of 6 ordinary rows "
    "(insufficient: a verdict needs 32)"
)


@pytest.mark.parametrize(
    ("growth", "breadth", "verdict", "sentence"),
    [
        (
            SAME,
            NONE_OVER,
            "passed",
            "forward KL is 1.00 x the stored values, geometric mean of 64 ordinary rows, "
            "90% interval [1.00, 1.00], p < 0.0001 for 1.25 x or more; 0 of 64 control rows (0%) "
            "over the bound of 0.310 nats/token, at most 4.6% at 95% confidence, p = 0.04 for "
            f"5% or more; {BESIDE}",
        ),
        (
            FEW,
            ONE_ROW,
            "inconclusive",
            f"{INSUFFICIENT}; 0 of 1 control row (0%) over the bound of 0.310 nats/token "
            f"(insufficient: a pass needs 32 rows); {BESIDE}",
        ),
        (FEW, None, "inconclusive", f"{INSUFFICIENT}; breadth is not checked; {BESIDE}"),
    ],
)
def test_a_sentence_holds_every_check(
    growth: Growth, breadth: Breadth | None, verdict: str, sentence: str
) -> None:
    found = aggregate(growth, breadth, "breadth is not checked")

    assert (found.verdict, aggregate_sentence(found)) == (verdict, sentence)


def test_a_shift_at_its_limit() -> None:
    assert shift_sentence(Shift(mean=0.15, limit=0.15, num_rows=1)) == (
        "mean KL of 1 ordinary prompt 0.150 nats/token <= max_shift 0.150"
    )
