"""What a suite's rows say together, as people read it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_divergence.core.aggregates import (
    Aggregate,
    Breadth,
    GrownRow,
    Growth,
    SearchedGrowth,
    Shift,
)
from pytest_divergence.reports.aggregates import (
    aggregate_sentence,
    aggregate_text,
    shift_sentence,
    shift_text,
)

GROWN = Growth(ratio=1.62, low=1.48, high=1.77, p_value=0.9996, margin=1.25, num_rows=64)
SAME = replace(GROWN, ratio=1.0, low=1.0, high=1.0, p_value=0.0)
NOT_BELOW = replace(GROWN, ratio=1.3, low=1.1, high=1.54, p_value=0.66)
UNSURE = replace(GROWN, ratio=1.1, low=0.9, high=1.34, p_value=0.14)
FEW = replace(SAME, num_rows=6)
NONE_OVER = Breadth(num_over=0, num_rows=64, bound=0.31, upper=0.0457, p_value=0.0375)
MANY_OVER = Breadth(num_over=5, num_rows=64, bound=0.31, upper=0.1577, p_value=0.78)
KNOT, POEM = "how-do-i-tie-a-knot-07f0d731ce", "write-a-poem-about-rain-ccb41fd1a3"
ROWS = (GrownRow(KNOT, 0.041, 0.213, 5.195), GrownRow(POEM, 0.2, 0.3, 1.5))
COMMANDS = {"rerun": "pytest s.divergence.jsonl::aggregate", "update": "pytest s --update"}


def found(growth: Growth, breadth: Breadth | None = NONE_OVER, no_breadth: str = "") -> Aggregate:
    return Aggregate(growth, breadth, no_breadth, SearchedGrowth(0.05, 5), ROWS)


def test_a_failure_says_it_in_its_first_line_and_shows_the_rows_that_grew_most() -> None:
    text = aggregate_text(found(GROWN, MANY_OVER), **COMMANDS)

    assert text.splitlines() == [
        "worse: forward KL 1.62 x stored, at least 1.48 x; 7.8% of controls over the",
        "bound > 5%",
        "  forward KL is 1.62 x the stored values, geometric mean of 64 ordinary rows,",
        "  90% interval [1.48, 1.77], p = 1.00 for 1.25 x or more",
        "  5 of 64 control rows (7.8%) over the bound of 0.310 nats/token, at most 15.8%",
        "  at 95% confidence, p = 0.78 for 5% or more",
        "  5 searched cases beside them: 0.05 x",
        "  largest growth, forward KL in nats/token",
        f"    {KNOT}      0.041 -> 0.213 (5.20 x)",
        f"    {POEM}  0.200 -> 0.300 (1.50 x)",
        "  intended? measure the suite again: pytest s --update",
        "  intended? an update does not change this bound; search this pair and promote",
        "  into a new suite",
        "  rerun: pytest s.divergence.jsonl::aggregate",
    ]


@pytest.mark.parametrize(
    ("growth", "breadth", "first"),
    [
        (GROWN, NONE_OVER, "worse: forward KL 1.62 x stored, at least 1.48 x"),
        (
            NOT_BELOW,
            NONE_OVER,
            "growth of forward KL not shown to be below 1.25 x: 1.30 x stored",
        ),
        (SAME, MANY_OVER, "7.8% of controls over the bound > 5%"),
        (UNSURE, NONE_OVER, "inconclusive: too little evidence to rule out broad change"),
    ],
)
def test_the_first_line_names_only_what_failed(
    growth: Growth, breadth: Breadth, first: str
) -> None:
    lines = aggregate_text(found(growth, breadth), **COMMANDS).splitlines()

    assert lines[0] == first
    assert max(map(len, lines)) <= 80
    is_mended = any(line.startswith("  intended? measure the suite again") for line in lines)
    assert is_mended == (growth is not SAME), "an update changes stored values, and no bound"
    advice = "  add rows to decide it; with --divergence-inconclusive=pass it only warns"
    assert (advice in lines) == first.startswith("inconclusive")


def test_rows_that_did_not_grow_are_not_listed() -> None:
    unchanged = Aggregate(SAME, MANY_OVER, "", None, (GrownRow(KNOT, 0.041, 0.041, 1.0),))

    assert "largest growth" not in aggregate_text(unchanged, **COMMANDS)


@pytest.mark.parametrize(
    ("aggregate", "verdict", "sentence"),
    [
        (
            found(SAME),
            "passed",
            "forward KL is 1.00 x the stored values, geometric mean of 64 ordinary rows, "
            "90% interval [1.00, 1.00], p < 0.0001 for 1.25 x or more; 0 of 64 control rows (0%) "
            "over the bound of 0.310 nats/token, at most 4.6% at 95% confidence, p = 0.04 for "
            "5% or more; 5 searched cases beside them: 0.05 x",
        ),
        (
            found(FEW, Breadth(num_over=0, num_rows=1, bound=0.31, upper=0.95, p_value=0.95)),
            "inconclusive",
            "forward KL is 1.00 x the stored values, geometric mean of 6 ordinary rows "
            "(insufficient: a verdict needs 32); 0 of 1 control row (0%) over the bound "
            "of 0.310 nats/token (insufficient: a pass needs 32 rows); "
            "5 searched cases beside them: 0.05 x",
        ),
        (
            found(FEW, None, "breadth is not checked: the suite has no control rows"),
            "inconclusive",
            "forward KL is 1.00 x the stored values, geometric mean of 6 ordinary rows "
            "(insufficient: a verdict needs 32); breadth is not checked: the suite has "
            "no control rows; 5 searched cases beside them: 0.05 x",
        ),
    ],
    ids=["passed", "few", "no controls"],
)
def test_a_sentence_holds_every_check(aggregate: Aggregate, verdict: str, sentence: str) -> None:
    assert aggregate.verdict == verdict
    assert aggregate_sentence(aggregate) == sentence


@pytest.mark.parametrize(
    ("growth", "breadth", "verdict"),
    [
        (GROWN, NONE_OVER, "failed"),
        (SAME, MANY_OVER, "failed"),
        (FEW, MANY_OVER, "failed"),
        (UNSURE, NONE_OVER, "inconclusive"),
        (SAME, NONE_OVER, "passed"),
        (SAME, None, "passed"),
    ],
)
def test_the_worst_check_decides(growth: Growth, breadth: Breadth | None, verdict: str) -> None:
    assert found(growth, breadth).verdict == verdict


def test_a_shift_over_its_limit() -> None:
    text = shift_text(Shift(mean=0.412, limit=0.15, num_rows=64), rerun="pytest s::shift")

    assert text.splitlines() == [
        "mean KL of 64 ordinary prompts 0.412 nats/token > max_shift 0.150",
        "  intended? raise --divergence-max-shift",
        "  rerun: pytest s::shift",
    ]


def test_a_shift_at_its_limit() -> None:
    assert shift_sentence(Shift(mean=0.15, limit=0.15, num_rows=1)) == (
        "mean KL of 1 ordinary prompt 0.150 nats/token <= max_shift 0.150"
    )
