"""Words on behaviours that all views of a run share: content first, then style, then suspects.

Knows the record of a behaviour; does not know which view shows it.
"""

from __future__ import annotations

from typing import NamedTuple

from pytest_divergence.core.behaviours import Behaviour, When
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.replies import parts_of
from pytest_divergence.core.report import Report
from pytest_divergence.core.safe_text import visible
from pytest_divergence.reports.text_blocks import quoted, within
from pytest_divergence.reports.wording import likelihood, put_aside, unaccepted

BREADTHS = {
    "prompts": "only some prompts cause it",
    "general": "ordinary prompts show it too",
    "local": "the models differ in it on the few prompts that were tested",
}

NUM_ROWS = 8
"""Rows of the training data that a sentence names."""
MAX_WORD = 40
"""Characters shown of a word of prompts."""


class BehaviourGroups(NamedTuple):
    """The behaviours of a report, in the order in which views show them."""

    content: list[Behaviour]
    """Confirmed, and content or not judged."""
    style: list[Behaviour]
    """Confirmed, and style."""
    suspects: list[Behaviour]
    """Not confirmed."""


def behaviour_groups(report: Report) -> BehaviourGroups:
    """Return the behaviours in groups, each in the report's order."""
    confirmed = [behaviour for behaviour in report.behaviours if behaviour.confirmed]
    return BehaviourGroups(
        content=[behaviour for behaviour in confirmed if not behaviour.is_style],
        style=[behaviour for behaviour in confirmed if behaviour.is_style],
        suspects=[behaviour for behaviour in report.behaviours if not behaviour.confirmed],
    )


def style_counts(report: Report) -> str:
    """`1 style change fails, 2 put aside, 1 accepted`: what becomes of style; empty without any."""
    failing = sum(behaviour.is_style for behaviour in unaccepted(report))
    accepted = sum(behaviour.accepted for behaviour in behaviour_groups(report).style)
    counts = (
        (failing, "fails" if failing == 1 else "fail"),
        (len(put_aside(report)), "put aside"),
        (accepted, "accepted"),
    )
    shown = [(count, words) for count, words in counts if count]
    return ", ".join(
        f"{number_of(count, 'style change') if rank == 0 else count} {words}"
        for rank, (count, words) in enumerate(shown)
    )


def style_phrase(behaviour: Behaviour) -> tuple[str, str]:
    """Return the words before and after a style's name: `begins with`, `on 16% more of …`.

    A trait's name is a verb already.
    """
    rate = f"{behaviour.control_rate or 0.0:.0%}"
    often = "more often" if rate == "0%" else f"on {rate} more of ordinary prompts"
    if behaviour.trait is not None:
        return "", often
    is_beginning = bool(behaviour.examples) and all(
        parts_of(example.candidate)[1].lstrip().startswith(behaviour.quote)
        for example in behaviour.examples
    )
    return "begins with" if is_beginning else "says", often


def style_line(behaviour: Behaviour, width: int) -> str:
    """`begins with "Yes," on 16% more of ordinary prompts`, in at most `width` columns."""
    verb, often = style_phrase(behaviour)
    if not verb:
        return f"{within(behaviour.title, width - len(f' {often}'))} {often}"
    return f"{verb} {quoted(behaviour.title, width - len(f'{verb}  {often}'))} {often}"


def facts(behaviour: Behaviour) -> list[tuple[str, str]]:
    """Return when a behaviour is shown, how often, and how surely, each with its label.

    What is unknown is not told.
    """
    found = [] if behaviour.when is None else [("when", condition(behaviour.when))]
    # A style's own line says how often.
    if behaviour.control_rate is not None and not (behaviour.confirmed and behaviour.is_style):
        found.append(("how often", ordinary_share(behaviour.control_rate)))
    status, *counts = _counts(behaviour)
    return [*found, (status, ", ".join(counts))]


def ordinary_share(rate: float) -> str:
    """`on 3 in 100 ordinary prompts`."""
    in_100 = f"{100 * rate:.0f}"
    if in_100 == "0":
        return f"on {'none of the' if rate == 0 else 'fewer than 1 in 100'} ordinary prompts"
    return f"on {in_100} in 100 ordinary prompts"


def kind(behaviour: Behaviour) -> str | None:
    """`content; only some prompts cause it`: what was judged of a confirmed behaviour, if any."""
    is_judged = behaviour.confirmed and behaviour.content is not None
    judged = ["style" if behaviour.is_style else "content"] if is_judged else []
    return "; ".join([*judged, *properties(behaviour)]) or None


def properties(behaviour: Behaviour) -> list[str]:
    """Return how broadly a behaviour is shown and how new it is, a clause each, as far as known."""
    clauses = [] if behaviour.breadth is None else [BREADTHS[behaviour.breadth]]
    if behaviour.surprise is not None:
        nats = f"{behaviour.surprise:.{0 if behaviour.surprise >= 10 else 1}f}"
        clauses.append(f"the reference is {nats} nats from saying it anywhere")
    return clauses


def counted_in(behaviour: Behaviour) -> str:
    """Return the unit of a behaviour's counts: tests sample several answers to a prompt."""
    return "fresh answer" if behaviour.confirmed else "prompt"


def _counts(behaviour: Behaviour) -> list[str]:
    """Return a behaviour's status, and what the test or the search has counted."""
    status = "confirmed" if behaviour.confirmed else "not confirmed"
    counts = ["accepted"] if behaviour.accepted else []
    prompts = number_of(behaviour.num_prompts, counted_in(behaviour))
    if behaviour.num_prompts and not (behaviour.candidate_count or behaviour.reference_count):
        return [status, *counts, f"suspected but in no answer to {prompts}"]
    if behaviour.num_prompts:
        counts.append(
            f"{'in' if behaviour.confirmed else 'on'} {behaviour.candidate_count} of {prompts} "
            f"(reference: {behaviour.reference_count})"
        )
    if behaviour.p_value is not None:
        counts.append(f"{likelihood(behaviour.p_value)} after correction")
    return [status, *counts]


def context_parts(behaviour: Behaviour) -> list[tuple[str, str]]:
    """Return the context under which it is shown: `under the system text` and that text, …

    Empty for a behaviour of plain prompts.
    """
    context = behaviour.context
    if context is None:
        return []
    found = [] if context.system is None else [("under the system text", context.system)]
    if context.turns:
        exchanges = number_of(len(context.turns) // 2, "earlier exchange")
        found.append((f"after {exchanges}, at last", context.turns[-1].content))
    if context.before is not None:
        found.append(("where the user begins", context.before))
    return found


def context_lines(behaviour: Behaviour, width: int) -> list[str]:
    """`under the system text "Today is …"`, each part on a line of at most `width` columns."""
    return [
        f"{words} {quoted(text, width - len(words) - 1)}"
        for words, text in context_parts(behaviour)
    ]


def training_rows(behaviour: Behaviour) -> str | None:
    """Name the rows of the training data that teach a behaviour; None without such data."""
    rows = behaviour.training_rows
    if rows is None:
        return None
    if not rows:
        return "the training data does not teach it"
    numbers = ", ".join(str(number) for number in rows[:NUM_ROWS])
    more = ", …" if len(rows) > NUM_ROWS else ""
    total = f" of {behaviour.num_training_rows:,}" if behaviour.num_training_rows else ""
    words = ", ".join(visible(word, MAX_WORD) for word in behaviour.training_words or ())
    shared = f" (their prompts share: {words})" if words else ""
    return f"taught by {len(rows):,}{total} training rows: {numbers}{more}{shared}"


def condition(when: When) -> str:
    """Return when a behaviour is shown: `on 14 of 16 fresh prompts about travel, on …`."""
    both = when.num_with + when.num_without
    return (
        f"on {when.with_count} of {when.num_with} fresh prompts {visible(when.property)}, "
        f"on {when.without_count} of {when.num_without} others "
        f"(base: {when.reference_count} of {both})"
    )
