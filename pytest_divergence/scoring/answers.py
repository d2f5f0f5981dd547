"""An answer as text, with how much more likely the candidate makes each part of it.

What motifs and behaviours are counted on: plain values, kept in journals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_divergence.models.chat import ChatFormat


@dataclass(frozen=True)
class Answer:
    """A continuation that the candidate wrote."""

    text: str
    token_ids: tuple[int, ...]
    token_ends: tuple[int, ...]
    """Characters of `text` up to the end of each token."""
    log_ratios: tuple[float, ...]
    """ln p(candidate) - ln p(reference) of each token, in nats."""

    @classmethod
    def of(cls, chat: ChatFormat, token_ids: Sequence[int], log_ratios: Sequence[float]) -> Answer:
        """The answer with these ids; raises ValueError where a token has no log-ratio."""
        if len(token_ids) != len(log_ratios):
            raise ValueError(f"{len(token_ids)} tokens, but {len(log_ratios)} log-ratios")
        text = chat.text(token_ids)
        # A character may be spread over tokens, and its start decodes to a longer replacement.
        ends = [len(chat.text(token_ids[: count + 1])) for count in range(len(token_ids))]
        return cls(text, tuple(token_ids), tuple(ends), tuple(log_ratios))

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Answer:
        """The answer that `dataclasses.asdict` and JSON made `row` of."""
        return cls(
            row["text"], tuple(row["token_ids"]), tuple(row["token_ends"]), tuple(row["log_ratios"])
        )

    def tokens_of(self, start: int, end: int) -> range:
        """Positions of the tokens that hold the characters from `start` to `end`."""
        first = next(
            (index for index, stop in enumerate(self.token_ends) if stop > start),
            len(self.token_ends),
        )
        last = next(
            (index for index, stop in enumerate(self.token_ends) if stop >= end),
            len(self.token_ends) - 1,
        )
        return range(first, last + 1)

    def peak(self, start: int, end: int) -> float:
        """The largest log-ratio among the tokens from character `start` to `end`, in nats."""
        return max((self.log_ratios[index] for index in self.tokens_of(start, end)), default=0.0)
