"""The words of `pytest-divergence damage`: plain lines of at most 80 columns.

Shows what a set of items can find, and a `DamageReport`; measures and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pytest_divergence.core.damage_record import MIN_KNOWN, Change, DamageReport
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import printable_lines
from pytest_divergence.reports.text_blocks import WIDTH, columns, quoted, sentence, within
from pytest_divergence.reports.wording import likelihood

NUM_SHOWN = 10
"""Lost answers in the table."""
ANSWER = 20
"""Columns of an answer."""


def plan_lines(num_items: int, fewest: int, losses: Mapping[float, float | None]) -> list[str]:
    """Say what so many items can find, before any model is asked.

    `fewest` are the losses that are enough where nothing is won; `losses` is the smallest
    detectable loss by the share of answers that change.
    """
    least = f"The fewest losses that can be shown are {fewest}, with none won"
    lines = sentence(
        f"{number_of(num_items, 'item')}. {least}: {_points(fewest / num_items)} of accuracy. The "
        "smallest loss that is found in 80 % of such tests:",
        width=WIDTH,
    )
    for share, loss in losses.items():
        found = _points(loss) if loss is not None else "none"
        lines.append(f"  {found}, if {100 * share:.0f} % of the answers change")
    return printable_lines(lines)


def damage_lines(report: DamageReport) -> list[str]:
    """Return what was lost and won, both tests and the verdict."""
    return printable_lines([*_counts(report), "", *_verdict(report), *_lost(report)])


def _counts(report: DamageReport) -> Iterator[str]:
    yield f"reference  {within(report.reference, WIDTH - 11)}"
    yield f"candidate  {within(report.candidate, WIDTH - 11)}"
    yield ""
    total = report.num_items
    for name, count in (
        ("reference right", report.num_reference_right),
        ("candidate right", report.num_candidate_right),
        ("lost", report.num_lost),
        ("won", report.num_won),
    ):
        yield f"{name:<16}{count:>7,} of {total:,}  ({100 * count / total:.1f} %)"
    loss = report.detectable_loss
    found = _points(loss) if loss is not None else "none"
    yield from sentence(
        f"With so many answers changed, the smallest loss that is found in 80 % of such tests: "
        f"{found}.",
        width=WIDTH,
    )
    accuracy, margin = report.accuracy, report.margin
    yield f"accuracy  {_change(accuracy, 100, 'points')} (exact McNemar test)"
    yield f"margin    {_change(margin, 1, 'nats')} (t test)"
    yield "In brackets: intervals of 90 %. The tests are one-sided."


def _verdict(report: DamageReport) -> Iterator[str]:
    tolerance = _points(report.tolerance)
    if report.verdict == "not worse":
        text = f"Not worse: a loss of accuracy of {tolerance} is ruled out at 95 % confidence."
    elif report.verdict == "worse":
        shown = [
            words
            for change, words in (
                (report.accuracy, "more answers are lost than won"),
                (report.margin, "right answers are less sure"),
            )
            if change.is_worse
        ]
        text = f"Worse: {' and '.join(shown)}, by more than chance explains."
    elif not report.knows_enough:
        text = (
            f"Undecided: the reference knows {report.num_reference_right} of the answers, and a "
            f"verdict needs {MIN_KNOWN}; give items that it knows."
        )
    else:
        text = (
            f"Undecided: neither a loss is shown, nor is one of {tolerance} ruled out; give more "
            "items."
        )
    yield from sentence(text, width=WIDTH)


def _lost(report: DamageReport) -> Iterator[str]:
    lost = [item for item in report.items if item.is_lost]
    if not lost:
        return
    lost.sort(key=lambda item: item.candidate_margin)
    yield ""
    yield f"{'margins':>14}  {'lost answer':<{ANSWER}}  prompt"
    for item in lost[:NUM_SHOWN]:
        answer = quoted(item.answer, ANSWER)
        numbers = f"{item.reference_margin:>7.2f}{item.candidate_margin:>7.2f}  "
        start = f"{numbers}{answer}{' ' * (ANSWER - columns(answer))}  "
        yield start + quoted(item.input, WIDTH - columns(start))
    if len(lost) > NUM_SHOWN:
        yield f"{len(lost) - NUM_SHOWN} more with --json"


def _change(change: Change, factor: float, unit: str) -> str:
    text = f"{factor * change.mean:+.3f} {unit}"
    if change.low is not None and change.high is not None:
        text += f" [{factor * change.low:+.3f}, {factor * change.high:+.3f}]"
    return f"{text}, {likelihood(change.p_value)}"


def _points(share: float) -> str:
    """A share as percentage points."""
    return number_of(1, "point") if share == 0.01 else f"{100 * share:.2g} points"
