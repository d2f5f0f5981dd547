"""A run on GitHub: annotations beside lines of a suite, and a job's summary.

Knows GitHub's limits and escapes; does not know pytest, or where the text is written.
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
"""Annotations of one kind in one step; GitHub drops the rest."""
MAX_SUMMARY_BYTES = 1 << 20
"""Bytes of a step's whole summary; GitHub rejects a longer one entirely."""
MAX_TEXTS = 20
"""Failures shown with their texts."""
MAX_TEXT = 400
"""Characters of an annotation's message."""
CUT = "The rest is left out: GitHub shows at most 1 MiB of a step's summary.\n"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a test that compares the models."""

    id: str
    """The case, behaviour or test."""
    file: str
    """Path from the root of the repository."""
    line: int
    verdict: str
    kl: float | None = None
    """The value, on `scale`."""
    bound: float | None = None
    text: str = ""
    """The reason for a failure; empty if it did not fail."""
    scale: str = f"KL, {NATS_PER_TOKEN}"
    """Quantity and unit of the value."""


def failure_annotations(outcomes: Sequence[Outcome]) -> list[str]:
    """One workflow command a failure; past the limit, the last one counts the rest."""
    failures = [outcome for outcome in outcomes if outcome.text]
    room = len(failures) if len(failures) <= MAX_ANNOTATIONS else MAX_ANNOTATIONS - 1
    lines = [_annotation(outcome) for outcome in failures[:room]]
    if left_out := len(failures) - room:
        more = f"{number_of(left_out, 'more failure')}: see the step's summary, or its log"
        lines.append(_command(more, title="pytest-divergence"))
    return lines


def fault_annotation(text: str) -> str:
    """The workflow command for an error that ended the session."""
    return _command(text[:MAX_TEXT], title="pytest-divergence")


def outcomes_markdown(outcomes: Sequence[Outcome]) -> str:
    """A table of what was replayed, failures first, and the failures' texts in fences."""
    return page(_sections(sorted(outcomes, key=_rank)))


def fault_markdown(text: str) -> str:
    """The summary for an error that ended the session."""
    return page(["# pytest-divergence", "", *fenced(text)])


def fitted(markdown: str, room: int) -> str:
    """`markdown`, cut between two lines to at most `room` bytes; empty if no line fits."""
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


def _annotation(outcome: Outcome) -> str:
    first = outcome.text.strip().partition("\n")[0]
    return _command(first[:MAX_TEXT], file=outcome.file, line=outcome.line, title=outcome.id)


def _command(message: str, **properties: str | int) -> str:
    shown = ",".join(
        f"{name}={_escaped(str(value)).replace(':', '%3A').replace(',', '%2C')}"
        for name, value in properties.items()
    )
    return f"::error {shown}::{_escaped(message)}"


def _escaped(text: str) -> str:
    return visible(text).replace("%", "%25")


def _rank(outcome: Outcome) -> tuple[bool, float, str]:
    return not outcome.text, -(outcome.kl if outcome.kl is not None else float("inf")), outcome.id


def _sections(outcomes: Sequence[Outcome]) -> Iterator[str]:
    failures = [outcome for outcome in outcomes if outcome.text]
    yield "# pytest-divergence"
    yield ""
    yield f"**{len(failures)} of {number_of(len(outcomes), 'test')} failed.**"
    yield ""
    scales = {outcome.scale for outcome in outcomes if outcome.kl is not None}
    title = plain(*scales) if len(scales) == 1 else "Value"
    titles = ("Verdict", title, "Bound", "Test")
    rows = (_cells(outcome, is_named=title == "Value") for outcome in outcomes)
    yield from table(titles, "|---|--:|--:|---|", rows)
    for outcome in failures[:MAX_TEXTS]:
        yield f"## {code(outcome.id)}"
        yield ""
        yield from fenced(outcome.text)
    if len(failures) > MAX_TEXTS:
        yield f"{number_of(len(failures) - MAX_TEXTS, 'more failure')} in the step's log."


def _cells(outcome: Outcome, *, is_named: bool) -> tuple[str, ...]:
    value, bound = _numbers(outcome)
    scale = f" {plain(outcome.scale)}" if is_named and outcome.kl is not None else ""
    return plain(outcome.verdict), value + scale, bound, code(outcome.id)


def _numbers(outcome: Outcome) -> tuple[str, str]:
    if outcome.kl is not None and outcome.bound is not None:
        return compared(outcome.kl, outcome.bound)
    kl, bound = ("–" if value is None else nats(value) for value in (outcome.kl, outcome.bound))
    return kl, bound
