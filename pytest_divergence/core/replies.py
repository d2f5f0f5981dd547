"""The text of a reply that has two parts: thoughts, then the answer.

Each part stands after its label, so that people, phrases and traits can tell which part says what.
Knows no model: marks of chat templates are in `pytest_divergence.models.thoughts`.
"""

from __future__ import annotations

from typing import Final

THOUGHTS: Final = "⟨thoughts⟩"
ANSWER: Final = "⟨answer⟩"
LABELS: Final = (THOUGHTS, ANSWER)


def join_parts(thoughts: str, answer: str | None) -> str:
    """Return the text of a reply; the answer is None if the reply ends within its thoughts."""
    text = f"{THOUGHTS} {thoughts.strip()}"
    return text if answer is None else f"{text}\n{ANSWER} {answer.strip()}"


def parts_of(reply: str) -> tuple[str | None, str]:
    """Return the thoughts and the answer of a reply's text; None for a reply without thoughts."""
    if not reply.startswith(THOUGHTS):
        return None, reply
    thoughts, _, answer = reply.removeprefix(THOUGHTS).partition(f"\n{ANSWER}")
    return thoughts.strip(), answer.strip()
