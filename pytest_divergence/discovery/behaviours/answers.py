"""Answered prompts, and how much more likely the candidate makes each part of its answer.

Plain values, kept in journals, on which phrases and traits are counted: those that a search has
anyway, and fresh ones for a test alone. Does not know what an answer shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from pytest_divergence.core.contexts import Context
from pytest_divergence.discovery.engines.base import Ledger, Worker, WorkUnit
from pytest_divergence.discovery.proposals import DistinctPrompts
from pytest_divergence.models.chat_format import ChatFormat
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.fingerprints import text_digest
from pytest_divergence.scoring.continuations import sampled_continuations


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
        """Return the answer with these ids; raises ValueError where a token has no log-ratio."""
        if len(token_ids) != len(log_ratios):
            raise ValueError(f"{len(token_ids)} tokens, but {len(log_ratios)} log-ratios")
        text = chat.text(token_ids)
        # A character may be spread over tokens, and its start decodes to a longer replacement.
        ends = [len(chat.text(token_ids[: count + 1])) for count in range(len(token_ids))]
        return cls(text, tuple(token_ids), tuple(ends), tuple(log_ratios))

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Answer:
        """Return the answer that `dataclasses.asdict` and JSON made `row` of."""
        return cls(
            row["text"], tuple(row["token_ids"]), tuple(row["token_ends"]), tuple(row["log_ratios"])
        )

    def tokens_of(self, start: int, end: int) -> range:
        """Return the positions of the tokens that hold the characters from `start` to `end`."""
        first = next(
            (index for index, stop in enumerate(self.token_ends) if stop > start),
            len(self.token_ends),
        )
        last = next(
            (index for index, stop in enumerate(self.token_ends) if stop >= end),
            len(self.token_ends) - 1,
        )
        return range(first, last + 1)

    def log_ratio(self, start: int, end: int) -> float:
        """Return the summed log-ratio of the tokens from character `start` to `end`, in nats."""
        return sum(self.log_ratios[index] for index in self.tokens_of(start, end))

    def peak(self, start: int, end: int) -> float:
        """Return the largest log-ratio of the tokens from character `start` to `end`, in nats."""
        return max((self.log_ratios[index] for index in self.tokens_of(start, end)), default=0.0)


@dataclass(frozen=True)
class AnsweredPrompt:
    """One prompt with an unamplified answer of each model."""

    prompt: str
    reference: str
    candidate: Answer
    is_control: bool

    @property
    def replies(self) -> tuple[str, str]:
        """The texts of both answers."""
        return self.reference, self.candidate.text


class AnsweredPrompts:
    """Answered prompts, of which near-identical ones count once; grows during a search."""

    def __init__(self, answered: Iterable[AnsweredPrompt] = ()) -> None:
        """Start with these."""
        self._prompts = DistinctPrompts()
        self.answered: list[AnsweredPrompt] = []
        self.probed: list[AnsweredPrompt] = []
        """Answers to questions about a lead's own words: no evidence of how often it is shown, but
        a test may be of their prompts."""
        self.add(answered)

    def add(self, answered: Iterable[AnsweredPrompt]) -> None:
        """Add those whose prompts are not near a known one."""
        self.answered += [new for new in answered if self._prompts.add(new.prompt)]

    @property
    def controls(self) -> list[AnsweredPrompt]:
        """The ordinary prompts among them."""
        return [prompt for prompt in self.answered if prompt.is_control]


def repeated_answers(
    ledger: Ledger,
    prompts: Sequence[str],
    *,
    num_repeats: int,
    seed: int,
    max_new_tokens: int,
    about: str,
    context: Context | None = None,
) -> Callable[[], list[AnsweredPrompt]]:
    """Begin to sample `num_repeats` answers of each model to each prompt at T = 1, not scored.

    The function returned waits for them. The i-th answers of both models are one row; their
    log-ratios are 0. Under a `context` the prompts are the user's texts.
    """
    read = [] if context is None else [context.canonical]
    digest = text_digest("\n".join([*read, *prompts]))[:8]
    unit = WorkUnit.of(
        f"behaviour/{about}/repeated",
        _repeat,
        prompts=prompts,
        context=context,
        num_repeats=num_repeats,
        seed=row_seed(seed, "behaviours", digest),
        max_new_tokens=max_new_tokens,
    )
    return partial(_as_answered, ledger.start(unit))


def _as_answered(take: Callable[[], list[dict[str, Any]]]) -> list[AnsweredPrompt]:
    return [
        AnsweredPrompt(row["prompt"], row["reference"], Answer.from_row(row["candidate"]), False)
        for row in take()
    ]


def _repeat(
    worker: Worker,
    *,
    prompts: Sequence[str],
    context: Context | None,
    num_repeats: int,
    seed: int,
    max_new_tokens: int,
) -> list[dict[str, Any]]:
    chat = worker.pair.chat
    found = sampled_continuations(
        worker.pair,
        prompts if context is None else [context.prompt(text) for text in prompts],
        num_continuations=num_repeats,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    return [
        {
            "prompt": prompt,
            "reference": chat.text(reference),
            "candidate": asdict(Answer.of(chat, candidate, [0.0] * len(candidate))),
        }
        for prompt, written in zip(prompts, found, strict=True)
        for reference, candidate in zip(written.reference, written.candidate, strict=True)
    ]
