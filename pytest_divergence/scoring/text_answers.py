"""Sampled answers of both models as texts, one of which may be known by its texts alone."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_divergence.core.cases import Message
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.endpoints.openai import OpenAiServer
from pytest_divergence.models.endpoints.served_side import ServedSide
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.side import Side
from pytest_divergence.scoring.continuations import in_flight, sampler

CUT_CHARACTER = "\ufffd"
"""Mark of a character of which an answer's last token holds only a part."""


def sampled_texts(
    pair: ModelPair, prompts: Sequence[Prompt], *, num_answers: int, max_new_tokens: int, seed: int
) -> list[tuple[list[str], list[str]]]:
    """Return answers of the reference and of the candidate to each prompt, sampled at T = 1.

    A text server cuts an answer after as many of its own tokens. Raises `MeasurementError`.
    """
    both = (_texts(pair, side, prompts, num_answers, max_new_tokens, seed) for side in pair.sides)
    return list(zip(*both, strict=True))


def _texts(
    pair: ModelPair,
    side: Side,
    prompts: Sequence[Prompt],
    num_answers: int,
    max_new_tokens: int,
    seed: int,
) -> list[list[str]]:
    dialect = side.dialect if isinstance(side, ServedSide) else None
    if isinstance(dialect, OpenAiServer):
        asked = [_messages(pair, prompt) for prompt in prompts]
        found = dialect.sampled(asked, num_answers, max_new_tokens, seed=seed)
    else:
        rows = pair.prompt_rows(prompts)
        write = sampler(pair, num_answers, max_new_tokens, seed)

        def compute(batch: list[int]) -> list[list[str]]:
            prefix, bodies = rows[batch[0]][0], [rows[index][1] for index in batch]
            written = write(side.start(bodies, prefix=prefix), prefix, bodies)
            return [[pair.chat.text(ids) for ids in answers] for answers in written]

        found = in_flight(rows, compute)
    return [[text.strip().rstrip(CUT_CHARACTER).rstrip() for text in texts] for texts in found]


def _messages(pair: ModelPair, prompt: Prompt) -> list[Message]:
    """Return the turns of a prompt, with the session's system prompt."""
    turns = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
    system = pair.chat.system_prompt
    if system is not None and turns[0].role != "system":
        turns.insert(0, Message(role="system", content=system))
    return turns
