"""Words for answers that were compared as texts: a sentence, and the text of a failure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import printable_lines
from pytest_divergence.reports import wording
from pytest_divergence.reports.text_blocks import WIDTH, block, command, quoted, sentence
from pytest_divergence.reports.wording import likelihood

NUM_SHOWN = 3
"""Answers of each model that a failure shows."""


def text_sentence(
    *, p_value: float, level: float, num_answers: int, detectable: float | None
) -> str:
    """State whether answers differ, and if not, which difference would have been seen.

    `detectable` is the share of the candidate's answers that would have had to say one other thing.
    """
    p = likelihood(p_value)
    if p_value <= level:
        return f"the answers differ ({p}, at most {level:.2g} counts)"
    seen = "no difference would have been seen in so few"
    if detectable is not None:
        seen = f"one other answer in {detectable:.0%} of them would mostly have been seen"
    return f"no difference seen in {number_of(num_answers, 'answer')} a prompt ({p}); {seen}"


def case_text(
    found: str,
    prompt: str,
    answers: tuple[Sequence[str], Sequence[str]],
    *,
    rerun: str,
) -> str:
    """Explain why a case fails: `found` in words, and the first answers of both models."""
    lines = [*sentence(found, width=WIDTH), "  prompt"]
    lines += block(prompt, width=WIDTH, indent="    ")
    for name, texts in zip(("reference", "candidate"), answers, strict=True):
        lines.append(f"  {name}, {min(NUM_SHOWN, len(texts))} of {len(texts)} answers")
        for text in texts[:NUM_SHOWN]:
            lines += block(text, width=WIDTH, indent="    ", limit=300, max_lines=4)
    return _joined([*lines, *_steps(rerun)])


def rows_text(found: str, *, rerun: str) -> str:
    """Explain why all rows together fail."""
    return _joined([*sentence(f"all rows together: {found}", width=WIDTH), *_steps(rerun)])


def behaviour_sentence(
    *, candidate_count: int, reference_count: int, num_answers: int, p_value: float
) -> str:
    """State how many answers show a behaviour."""
    return (
        f"in {candidate_count} of {num_answers} fresh answers (reference: {reference_count}), "
        f"{likelihood(p_value)}"
    )


def behaviour_text(behaviour: Behaviour, counted: str, *, rerun: str, suite: str) -> str:
    """Explain why a behaviour fails: it is still shown; `counted` says how often."""
    lines = [f"the candidate shows a behaviour: {quoted(behaviour.title, WIDTH - 33)}"]
    lines += sentence(counted, width=WIDTH, indent="  ")
    accept = wording.accept_command(behaviour.id, suite)
    lines += command("intended? accept it", accept, width=WIDTH, indent="  ")
    return _joined([*lines, *command("rerun", rerun, width=WIDTH, indent="  ")])


def _steps(rerun: str) -> Iterator[str]:
    yield from sentence(
        "intended? texts have no bound that could be raised: compare with the model that the "
        "served one should equal",
        width=WIDTH,
        indent="  ",
    )
    yield from command("rerun", rerun, width=WIDTH, indent="  ")


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(printable_lines(lines))
