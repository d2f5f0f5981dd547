"""What a run looks like on GitHub: annotations beside lines of a suite, and a job's summary.

Knows GitHub's limits and escapes. Does not know pytest, nor where the text is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_divergence.core.cases import NATS_PER_TOKEN
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import visible
from pytest_divergence.reports.markdown_text import code, page, plain, table
from pytest_divergence.reports.text_blocks import fenced
from pytest_divergence.reports.wording import compared, nats

MAX_ANNOTATIONS = 10
"""Of one kind in one step; GitHub drops the rest."""
MAX_SUMMARY_BYTES = 1 << 20
"""Of all that one step writes into its summary; GitHub refuses a longer one whole."""
MAX_TEXTS = 20
"""Failures shown with their texts."""
MAX_TEXT = 400
"""Characters of a message."""
CUT = "The rest is left out: GitHub shows at most 1 MiB of a step's summary.\n"


@dataclass(frozen=True)
class Outcome:
    """How one test went that compares the models."""

    id: str
    """The case, behaviour or test."""
    file: str
    """From the root of the repository."""
    line: int
    verdict: str
    kl: float | None = None
    """In `unit`."""
    bound: float | None = None
    text: str = ""
    """Why it failed; empty where it did not."""
    unit: str = NATS_PER_TOKEN


def failure_annotations(outcomes: Sequence[Outcome]) -> list[str]:
    """One command a failure, for the log; past the limit the last one says how many are left."""
    failures = [one for one in outcomes if one.text]
    room = len(failures) if len(failures) <= MAX_ANNOTATIONS else MAX_ANNOTATIONS - 1
    lines = [_annotation(one) for one in failures[:room]]
    if left_out := len(failures) - room:
        more = f"{number_of(left_out, 'more failure')}: see the step's summary, or its log"
        lines.append(_command(more, title="pytest-divergence"))
    return lines


def fault_annotation(text: str) -> str:
    """The command for what ended the whole session."""
    return _command(text[:MAX_TEXT], title="pytest-divergence")


def outcomes_markdown(outcomes: Sequence[Outcome]) -> str:
    """A table of what was replayed, what failed first, and the failures' texts in fences."""
    return page(_sections(sorted(outcomes, key=_rank)))


def fault_markdown(text: str) -> str:
    """What ended the whole session."""
    return page(["# pytest-divergence", "", *fenced(text)])


def fitted(markdown: str, room: int) -> str:
    """`markdown`, cut between two lines where it is longer than `room` bytes; empty: no room."""
    if len(markdown.encode("utf-8")) <= room:
        return markdown
    end = f"```\n\n{CUT}"
    kept, size, is_fenced = [], len(end.encode("utf-8")), False
    for line in markdown.splitlines(keepends=True):
        size += len(line.encode("utf-8"))
        if size > room:
            break
        is_fenced ^= line.startswith("```")
        kept.append(line)
    return "".join([*kept, end if is_fenced else f"\n{CUT}"]) if kept else ""


def _annotation(one: Outcome) -> str:
    first = one.text.strip().partition("\n")[0]
    return _command(first[:MAX_TEXT], file=one.file, line=one.line, title=one.id)


def _command(message: str, **properties: str | int) -> str:
    shown = ",".join(
        f"{name}={_escaped(str(value)).replace(':', '%3A').replace(',', '%2C')}"
        for name, value in properties.items()
    )
    return f"::error {shown}::{_escaped(message)}"


def _escaped(text: str) -> str:
    return visible(text).replace("%", "%25")


def _rank(one: Outcome) -> tuple[bool, float, str]:
    return not one.text, -(one.kl if one.kl is not None else float("inf")), one.id


def _sections(outcomes: Sequence[Outcome]) -> Iterator[str]:
    failures = [one for one in outcomes if one.text]
    yield "# pytest-divergence"
    yield ""
    yield f"**{len(failures)} of {number_of(len(outcomes), 'test')} failed.**"
    yield ""
    units = {one.unit for one in outcomes}
    is_usual = units == {NATS_PER_TOKEN}
    titles = ("Verdict", "KL, nats/token" if is_usual else "Value", "Bound", "Test")
    rows = (_cells(one, is_usual=is_usual) for one in outcomes)
    yield from table(titles, "|---|--:|--:|---|", rows)
    for one in failures[:MAX_TEXTS]:
        yield f"## {code(one.id)}"
        yield ""
        yield from fenced(one.text)
    if len(failures) > MAX_TEXTS:
        yield f"{number_of(len(failures) - MAX_TEXTS, 'more failure')} in the step's log."


def _cells(one: Outcome, *, is_usual: bool) -> tuple[str, ...]:
    value, bound = _numbers(one)
    unit = "" if is_usual or one.kl is None else f" {plain(one.unit)}"
    return plain(one.verdict), value + unit, bound, code(one.id)


def _numbers(one: Outcome) -> tuple[str, str]:
    if one.kl is not None and one.bound is not None:
        return compared(one.kl, one.bound)
    kl, bound = ("–" if value is None else nats(value) for value in (one.kl, one.bound))
    return kl, bound
