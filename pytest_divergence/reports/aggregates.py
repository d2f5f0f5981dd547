"""What a suite's rows say together, in words: one sentence, and the text of a failure.

Knows words and lines; does not know how a number was computed, nor pytest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_divergence.core.aggregates import (
    MAX_SHARE_OVER,
    MIN_CLUSTERS,
    MIN_CONTROLS,
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

SEARCH_AGAIN = "search this pair, and promote into a new suite"
"""What to do about a bound for ordinary prompts: it is the pair's, and no update raises it."""


def aggregate_sentence(found: Aggregate) -> str:
    """Every check with its numbers."""
    return _joined(["; ".join(_checks(found))])


def aggregate_text(found: Aggregate, *, rerun: str, update: str) -> str:
    """Why the aggregate fails: its first line says it, the rest shows it and what to do next."""
    lines = [_headline(found)]
    for check in _checks(found):
        lines += sentence(check, width=WIDTH, indent="  ")
    lines += _grown(found)
    if found.verdict == "inconclusive":
        lines.append(f"  more rows decide it; {setting('inconclusive')}=pass only warns")
    if found.growth.verdict != "passed" and not found.growth.is_insufficient:
        lines += command("intended? measure the suite anew", update, width=WIDTH, indent="  ")
    if found.breadth is not None and found.breadth.verdict == "failed":
        advice = f"intended? an update leaves this bound as it is; {SEARCH_AGAIN}"
        lines += sentence(advice, width=WIDTH, indent="  ")
    return _joined([*lines, *command("rerun", rerun, width=WIDTH, indent="  ")])


def breadth_sentence(breadth: Breadth) -> str:
    """How many ordinary prompts are over the suite's bound."""
    text = (
        f"{breadth.num_over} of {number_of(breadth.num_rows, 'control row')} "
        f"({_percent(breadth.share)}) over the bound of {nats(breadth.bound)} "
        f"{visible(breadth.unit)}"
    )
    if breadth.is_insufficient:
        return f"{text} (insufficient: to pass needs {MIN_CONTROLS} rows)"
    return (
        f"{text}, at most {_percent(breadth.upper)} at 95% confidence, "
        f"{likelihood(breadth.p_value)} for {_percent(MAX_SHARE_OVER)} or more"
    )


def shift_sentence(found: Shift) -> str:
    """The mean on ordinary prompts beside its limit."""
    mean, limit = wording.compared(found.mean, found.limit)
    relation = "<=" if found.verdict == "passed" else ">"
    rows = number_of(found.num_rows, "ordinary prompt")
    name, unit = map(visible, (quantity(found.metric), found.unit))
    return f"mean {name} of {rows} {mean} {unit} {relation} max_shift {limit}"


def raise_shift() -> str:
    """What to do about a shift that is meant."""
    return f"raise {setting('max_shift')}"


def shift_text(found: Shift, *, rerun: str) -> str:
    """Why the shift fails."""
    lines = [shift_sentence(found), f"  intended? {raise_shift()}"]
    return _joined([*lines, *command("rerun", rerun, width=WIDTH, indent="  ")])


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(printable_lines(lines))


def _checks(found: Aggregate) -> list[str]:
    return [
        _growth(found.growth),
        breadth_sentence(found.breadth) if found.breadth is not None else found.no_breadth,
    ]


def _growth(growth: Growth) -> str:
    text = (
        f"forward KL is {_times(growth.ratio)} the stored values, geometric mean of "
        f"{number_of(growth.num_rows, 'row')} in {number_of(growth.num_clusters, 'cluster')}"
    )
    if growth.is_insufficient:
        return f"{text} (insufficient: a verdict needs {MIN_CLUSTERS} clusters)"
    return (
        f"{text}, 90% interval [{growth.low:.2f}, {growth.high:.2f}], "
        f"{likelihood(growth.p_value)} for {_times(growth.margin)} or more"
    )


def _headline(found: Aggregate) -> str:
    growth, breadth = found.growth, found.breadth
    reasons = []
    if growth.verdict == "failed":
        reasons.append(f"forward KL {_times(growth.ratio)} stored >= {_times(growth.margin)}")
    if breadth is not None and breadth.verdict == "failed":
        share, limit = _percent(breadth.share), _percent(MAX_SHARE_OVER)
        reasons.append(f"{share} of controls over the bound > {limit}")
    return "; ".join(reasons) or "inconclusive: too little evidence against broad change"


def _grown(found: Aggregate) -> Iterator[str]:
    rows = [row for row in found.grown if row.ratio > 1]
    if rows:
        yield "  grown most, forward KL in nats/token"
    for row in rows:
        stored, measured = nats(row.stored), nats(row.measured)
        yield f"    {row.id:<35} {stored} -> {measured} ({_times(row.ratio)})"


def _times(ratio: float) -> str:
    return f"{ratio:.2f} x"


def _percent(share: float) -> str:
    return f"{share:.1%}".replace(".0%", "%")
