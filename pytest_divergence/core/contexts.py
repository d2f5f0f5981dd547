"""A context: what a model reads before the user's own text, such as a system text or earlier turns.

Knows the record, its rules and the prompt that it makes of a text. Does not know where contexts
come from, nor what is measured under them.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import model_validator

from pytest_divergence.core.cases import Message, Record, canonical_json


class Context(Record):
    """Turns before the user's, or text before the user's own, under a name for people."""

    name: str
    messages: tuple[Message, ...] = ()
    """Turns before the user's: a system turn, then pairs of a user's and an assistant's, or none.
    """
    before: str | None = None
    """Text put before the user's own, in the same turn; a space parts them."""

    @model_validator(mode="after")
    def _holds_something(self) -> Context:
        if not self.messages and self.before is None:
            raise ValueError("a context needs `messages`, or text in `system` or `before`")
        texts = [turn.content for turn in self.messages]
        if not all(map(str.strip, texts if self.before is None else [*texts, self.before])):
            raise ValueError("a text of the context is empty; write it, or leave it out")
        if not _is_followed_by_a_user(self.messages):
            roles = ", ".join(turn.role for turn in self.messages)
            raise ValueError(
                f"the turns are {roles}; a context holds a system turn or none, then turns of "
                "user and assistant by turns, and ends before the user's next one"
            )
        return self

    def prompt(self, text: str) -> tuple[Message, ...]:
        """Return the prompt whose last turn is the user's, with this text."""
        content = text if self.before is None else f"{self.before} {text}"
        return (*self.messages, Message(role="user", content=content))

    @property
    def canonical(self) -> str:
        """All that models read of it, as canonical JSON: equal for equal contexts of any name."""
        return canonical_json(self.model_dump(mode="json", exclude={"name"}))

    @property
    def system(self) -> str | None:
        """The system text, if there is one."""
        first = self.messages[:1]
        return first[0].content if first and first[0].role == "system" else None

    @property
    def turns(self) -> tuple[Message, ...]:
        """The earlier turns of user and assistant."""
        return self.messages if self.system is None else self.messages[1:]


def _is_followed_by_a_user(messages: Sequence[Message]) -> bool:
    """Whether a user's turn may come next: after a system turn or none, and pairs of turns."""
    roles = [turn.role for turn in messages]
    rest = roles[1:] if roles[:1] == ["system"] else roles
    return rest == ["user", "assistant"] * (len(rest) // 2)
