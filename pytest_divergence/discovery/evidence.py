"""What is known of both models' answers so far: what behaviours are looked for in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pytest_divergence.discovery.proposals import is_near
from pytest_divergence.scoring.answers import Answer


@dataclass(frozen=True)
class Answered:
    """One prompt with an unamplified answer of each model."""

    prompt: str
    reference: str
    candidate: Answer
    is_control: bool


class Evidence:
    """Answered prompts, of which near-identical ones count once; grows as the search goes on."""

    def __init__(self, answered: Iterable[Answered] = ()) -> None:
        """Start with the given ones."""
        self.answered: list[Answered] = []
        self.add(answered)

    def add(self, answered: Iterable[Answered]) -> None:
        """Take over those that say something new."""
        for one in answered:
            if not any(is_near(one.prompt, other.prompt) for other in self.answered):
                self.answered.append(one)

    @property
    def controls(self) -> list[Answered]:
        """The ordinary prompts among them."""
        return [one for one in self.answered if one.is_control]
