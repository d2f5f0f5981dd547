"""Words for the tests of a suite's rows together: a sentence, and the text of a failure.

Knows words and lines; does not know how a number was computed, or pytest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_divergence.core.aggregates import (
    MAX_SHARE_OVER,
    MIN_ROWS,
    Aggregate,
    Breadth,
    Growth,
    Shift,
)
from pytest_divergence.core.cases import quantity
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import printable_lines, visible
from pytest_divergence.core.setting_names import setting
from pytest_divergence.reports import wording
from pytest_divergence.reports.text_blocks import WIDTH, command, sentence
from pytest_divergence.reports.wording import likelihood, nats

NO_GROWTH = "growth is not checked: the suite has no ordinary rows with stored values"
SEARCH_AGAIN = "search this pair and promote into a new suite"
"""Advice about the bound for ordinary prompts: it belongs to the pair, and no update raises it."""


def aggregate_sentence(found: Aggregate) -> str:
    """Every check with its numbers."""
    return _joined(["; ".join(_checks(found))])


def aggregate_text(found: Aggregate, *, rerun: str, update: str | None) -> str:
    """Explain why the aggregate fails: first the reason, then the numbers and what to do next.

    `update` is None where the suite cannot be measured again.
    """
    lines = sentence(_headline(found), width=WIDTH)
    for check in _checks(found):
        lines += sentence(check, width=WIDTH, indent="  ")
    lines += _grown(found)
    if found.verdict == "inconclusive":
        lines.append(f"  add rows to decide it; with {setting('inconclusive')}=pass it only warns")
    growth = found.growth
    is_shown = growth is not None and growth.verdict != "passed" and not growth.is_insufficient
    if is_shown and update is not None:
        lines += command("intended? measure the suite again", update, width=WIDTH, indent="  ")
    if found.breadth is not None and found.breadth.verdict == "failed":
        advice = f"intended? an update does not change this bound; {SEARCH_AGAIN}"
        lines += sentence(advice, width=WIDTH, indent="  ")
    return _joined([*lines, *command("rerun", rerun, width=WIDTH, indent="  ")])


def breadth_sentence(breadth: Breadth) -> str:
    """State how many ordinary prompts are over the suite's bound."""
    text = (
        f"{breadth.num_over} of {number_of(breadth.num_rows, 'control row')} "
        f"({_percent(breadth.share)}) over the bound of {nats(breadth.bound)} "
        f"{visible(breadth.unit)}"
    )
    if breadth.is_insufficient:
        return f"{text} (insufficient: a pass needs {MIN_ROWS} rows)"
    return (
        f"{text}, at most {_percent(breadth.upper)} at 95% confidence, "
        f"{likelihood(breadth.p_value)} for {_percent(MAX_SHARE_OVER)} or more"
    )


def shift_sentence(found: Shift) -> str:
    """Compare the mean on ordinary prompts with its limit."""
    mean, limit = wording.compared(found.mean, found.limit)
    relation = "<=" if found.verdict == "passed" else ">"
    rows = number_of(found.num_rows, "ordinary prompt")
    name, unit = map(visible, (quantity(found.metric), found.unit))
    return f"mean {name} of {rows} {mean} {unit} {relation} max_shift {limit}"


def raise_shift() -> str:
    """Advice about an intended shift."""
    return f"raise {setting('max_shift')}"


def shift_text(found: Shift, *, rerun: str) -> str:
    """Explain why the shift fails."""
    lines = [shift_sentence(found), f"  intended? {raise_shift()}"]
    return _joined([*lines, *command("rerun", rerun, width=WIDTH, indent="  ")])


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(printable_lines(lines))


def _checks(found: Aggregate) -> list[str]:
    checks = [
        _growth(found.growth) if found.growth is not None else NO_GROWTH,
        breadth_sentence(found.breadth) if found.breadth is not None else found.no_breadth,
    ]
    if (searched := found.searched) is not None:
        rows = number_of(searched.num_rows, "searched case")
        checks.append(f"{rows} beside them: {_times(searched.ratio)}")
    return checks


def _growth(growth: Growth) -> str:
    text = (
        f"{growth.what} is {_times(growth.ratio)} the stored values, geometric mean of "
        f"{number_of(growth.num_rows, 'ordinary row')}"
    )
    if growth.is_insufficient:
        return f"{text} (insufficient: a verdict needs {MIN_ROWS})"
    return (
        f"{text}, 90% interval [{growth.low:.2f}, {growth.high:.2f}], "
        f"{likelihood(growth.p_value)} for {_times(growth.margin)} or more"
    )


def _headline(found: Aggregate) -> str:
    growth, breadth = found.growth, found.breadth
    reasons = []
    if growth is not None and growth.verdict == "failed":
        ratio, margin = _times(growth.ratio), _times(growth.margin)
        reasons.append(
            f"worse: {growth.what} {ratio} stored, at least {_times(growth.low)}"
            if growth.is_shown
            else f"growth of {growth.what} not shown to be below {margin}: {ratio} stored"
        )
    if breadth is not None and breadth.verdict == "failed":
        share, limit = _percent(breadth.share), _percent(MAX_SHARE_OVER)
        reasons.append(f"{share} of controls over the bound > {limit}")
    return "; ".join(reasons) or "inconclusive: too little evidence to rule out broad change"


def _grown(found: Aggregate) -> Iterator[str]:
    rows = [row for row in found.grown if row.ratio > 1]
    if rows and found.growth is not None:
        yield f"  largest growth, {found.growth.what} in nats/token"
    for row in rows:
        stored, measured = nats(row.stored), nats(row.measured)
        yield f"    {row.id:<35} {stored} -> {measured} ({_times(row.ratio)})"


def _times(ratio: float) -> str:
    return f"{ratio:.2f} x"


def _percent(share: float) -> str:
    return f"{share:.1%}".replace(".0%", "%")
