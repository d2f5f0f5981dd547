"""A merge between its parents, in a terminal: plain text, 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from pytest_divergence.core.parents import Follows, Parents, PromptParents, counts
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import printable_lines, visible
from pytest_divergence.reports.text_blocks import WIDTH, quoted
from pytest_divergence.reports.wording import compared

TITLES: dict[Follows, str] = {
    "neither": "like neither parent",
    "first": "like A",
    "second": "like B",
    "both": "like both",
}


def parent_lines(parents: Parents) -> list[str]:
    """Lines that say which parent a merge follows on each prompt."""
    return printable_lines(list(_lines(parents)))


def _lines(parents: Parents) -> Iterator[str]:
    yield f"merge     {visible(parents.merge)}"
    yield f"parent A  {visible(parents.first)}"
    yield f"parent B  {visible(parents.second)}"
    yield ""
    found = counts(parents.prompts)
    shares = ", ".join(f"{count} {TITLES[name]}" for name, count in found.items() if count)
    yield f"{number_of(len(parents.prompts), 'prompt')} against both parents: {shares}"
    if parents.num_alone:
        alone = number_of(parents.num_alone, "prompt")
        yield f"{alone} not judged: against one parent only, or without a bound"
    for name, rows in groupby(parents.prompts, key=lambda row: row.follows):
        yield ""
        yield f"{TITLES[name]}:"
        yield from map(_row, rows)
    if parents.behaviours:
        yield ""
        yield "behaviours of the merge that neither parent shows:"
        for behaviour in parents.behaviours:
            yield f"  {quoted(behaviour.name, WIDTH - 2)}"
            yield f"    {behaviour.id}"


def _row(row: PromptParents) -> str:
    first = _beside(row.first_kl, row.first_bound)
    start = f"  A {first}   B {_beside(row.second_kl, row.second_bound)}   "
    return start + quoted(row.prompt, WIDTH - len(start))


def _beside(kl: float, bound: float) -> str:
    value, limit = compared(kl, bound)
    return f"{value} {'<=' if kl <= bound else '>'} {limit}"
