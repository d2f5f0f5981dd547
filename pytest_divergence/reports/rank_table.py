"""The table of `pytest-divergence rank`: plain lines of at most 80 columns.

Shows a `PromptRanking`; measures and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.ranked_prompts import PromptRanking, RankedPrompt
from pytest_divergence.core.safe_text import printable_lines
from pytest_divergence.reports.text_blocks import WIDTH, columns, quoted, sentence, within

OPENING = 18
"""Columns of what the candidate's answer begins with."""


def rank_lines(ranking: PromptRanking, top: int) -> list[str]:
    """Return the table of the first `top` prompts, and what its numbers mean."""
    return printable_lines([*_head(ranking), "", *_table(ranking, top), "", *_legend(ranking)])


def _head(ranking: PromptRanking) -> Iterator[str]:
    yield f"reference  {within(ranking.reference, WIDTH - 11)}"
    yield f"candidate  {within(ranking.candidate, WIDTH - 11)}"
    parts = [number_of(len(ranking.prompts), "prompt"), f"{ranking.num_controls} controls"]
    if ranking.num_repeated:
        parts.append(f"left out as repeated: {ranking.num_repeated:,}")
    if ranking.num_too_long:
        parts.append(f"over {ranking.max_tokens:,} tokens: {ranking.num_too_long:,}")
    yield from sentence(", ".join(parts), width=WIDTH)


def _table(ranking: PromptRanking, top: int) -> Iterator[str]:
    yield f"{'leap':>7}{'controls':>9}{'expected':>9}{'limit':>6}  {'begins':<{OPENING}}  prompt"
    for prompt in ranking.prompts[:top]:
        yield _row(prompt)


def _row(prompt: RankedPrompt) -> str:
    counts = f"{prompt.controls_above:>9}{prompt.expected_above:>9,.1f}{prompt.limit_above:>6,}"
    numbers = f"{prompt.leap:>7.2f}{counts}  "
    opening = quoted(prompt.opening, OPENING) if prompt.opening else "-"
    start = numbers + opening + " " * (OPENING - columns(opening)) + "  "
    return start + quoted(prompt.input, WIDTH - columns(start))


def _legend(ranking: PromptRanking) -> Iterator[str]:
    yield from sentence(
        "leap: how much likelier, in nats, the candidate writes the last token of what its answer "
        "begins with; prompts of equal leap stand in the order of the first token's divergence. "
        "controls: ordinary prompts that stand as high. expected: how many of "
        f"{number_of(len(ranking.prompts), 'ordinary prompt')} would, at most, on average. limit: "
        "no more would, with a probability of 95 %. This is an order, no verdict: "
        f"{ranking.num_controls} controls cannot carry one.",
        width=WIDTH,
    )
