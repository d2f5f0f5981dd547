"""A trial of a server before anything is judged on what it tells.

Its tokenizer and template must be the pair's, it must read the ids that it is sent, and what it
tells of a token must not depend on what it was asked before or meanwhile. Readings of the same
tokens in several ways are what its noise is measured on; the number is made of them elsewhere
(`pytest_divergence.scoring.estimates`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting
from pytest_divergence.models.chat_format import ChatFormat
from pytest_divergence.models.endpoints.http_client import Connection
from pytest_divergence.models.endpoints.served_side import Dialect, ServedRows, ServedSide
from pytest_divergence.models.side import Role, Told
from pytest_divergence.models.tokenizers import PROBES, decoded

NUM_PROMPTS, NUM_TOKENS = 3, 4
"""Prompts, and tokens of each answer, that are read again."""
NUM_READ_ANEW = 1
"""Answers that are also read without anything kept, which is slow."""
MAX_CHANGE = 0.25
"""Nats by which a token's log-probability may change between readings; more is no rounding."""


class TriedServer(Dialect, Protocol):
    """A server whose tokenizer and template can be compared with the pair's."""

    @property
    def template(self) -> str | None:
        """The chat template that it applies by itself, if it tells that."""

    def ids(self, connection: Connection, text: str) -> list[int]:
        """Return the ids of a text. Raises `MeasurementError`."""

    def prompt_ids(
        self,
        connection: Connection,
        messages: Sequence[Mapping[str, str]],
        arguments: Mapping[str, Any],
    ) -> list[int]:
        """Return the ids of messages as its own template writes them. Raises `MeasurementError`."""


def try_out(
    server: TriedServer, role: Role, chat: ChatFormat, *, compares_template: bool
) -> Iterator[tuple[Told, Told]]:
    """Try a server, and yield each reading of an answer with an earlier reading of it.

    Raises `ModelLoadError`, or `MeasurementError` for an answer that cannot be right; both quote
    the server.
    """
    with server.connected() as connection:
        _check_tokenizer(server, connection, chat)
        if compares_template and chat.template is not None:
            _check_template(server, connection, chat)
    rows = ServedRows(
        ServedSide(role, server),
        [tuple(chat.prompt_ids(prompt)) for prompt in PROBES[:NUM_PROMPTS]],
    )
    answers = rows.answers(NUM_TOKENS, None)
    first = rows.told(answers)
    for ids, told in zip(answers, first, strict=True):
        _check_likeliest(server, ids, told)
    # The rows in another order, each from its end: other rows and tokens have been read before.
    backwards = range(len(answers))[::-1]
    others = rows.fork(backwards).told([answers[row] for row in backwards], is_reversed=True)
    anew = rows.fork(range(NUM_READ_ANEW)).told(answers[:NUM_READ_ANEW], is_read_anew=True)
    again = rows.told(answers)
    pairs = [*zip(first, others[::-1], strict=True), *zip(first, anew, strict=False)]
    for earlier, later in [*pairs, *zip(first, again, strict=True)]:
        _check_same(server, earlier, later)
        yield earlier, later


def _check_tokenizer(server: TriedServer, connection: Connection, chat: ChatFormat) -> None:
    for probe in PROBES:
        theirs = server.ids(connection, probe)
        ours = chat.tokenizer.encode(probe, add_special_tokens=False, split_special_tokens=True)
        if theirs != list(ours):
            raise ModelLoadError(
                f"{server.name} has another tokenizer than the pair: it splits "
                f"{safe_line(probe)} into {_shown(theirs)}, and the pair's into {_shown(ours)}; "
                "add tokenizer=MODEL, the model that is served"
            )


def _check_template(server: TriedServer, connection: Connection, chat: ChatFormat) -> None:
    """Compare what both templates make of a prompt, unless they are the same text.

    A template that asks for the time makes another text at a server, whose clock is not held fixed.
    """
    if server.template == chat.template or (server.template is None and chat.asks_for_time):
        return
    messages = [{"role": "user", "content": PROBES[0]}]
    if chat.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": chat.system_prompt})
    theirs = server.prompt_ids(connection, messages, chat.all_arguments)
    ours = chat.template_ids(PROBES[0])
    if theirs != ours:
        their_text, our_text = (
            decoded(chat.tokenizer, ids, keep_special=True) for ids in (theirs, ours)
        )
        if their_text == our_text:
            raise ModelLoadError(
                f"{server.name} reads control tokens as text: it makes "
                f"{_shown(theirs)} of {safe_line(their_text)}, and the pair's tokenizer makes "
                f"{_shown(ours)}; convert the model again, with its special tokens"
            )
        raise ModelLoadError(
            f"{server.name} has another chat template than the pair: it makes "
            f"{safe_line(their_text)} of {safe_line(PROBES[0])}, and the pair's makes "
            f"{safe_line(our_text)}; serve the model's own template, or give "
            f"{setting('chat_template')} as it is served"
        )


def _check_likeliest(server: TriedServer, ids: Sequence[int], told: Told) -> None:
    """Check that what it writes as the likeliest is so by its own probabilities."""
    for token_id, chosen, head in zip(ids, told.chosen, told.head, strict=True):
        if float(chosen) < float(head[0]) - MAX_CHANGE:
            raise ModelLoadError(
                f"{server.name} writes token {token_id} as the likeliest, and tells "
                f"{float(chosen):.3f} of it but {float(head[0]):.3f} of another; it samples in a "
                "way of its own, or another model answers"
            )


def _check_same(server: TriedServer, first: Told, second: Told) -> None:
    change = (first.chosen - second.chosen).abs()
    worst = int(change.argmax())
    if float(change[worst]) > MAX_CHANGE or not torch.isfinite(change).all():
        raise ModelLoadError(
            f"{server.name} tells {float(first.chosen[worst]):.4f} of a token, and "
            f"{float(second.chosen[worst]):.4f} of it once other text was read before; its values "
            "depend on the order of questions, so nothing can be judged on them. Switch its prefix "
            "cache off, and serve one model alone"
        )


def _shown(ids: Sequence[int]) -> str:
    return f"{str(list(ids)[:8])[:-1]}{', …' if len(ids) > 8 else ''}]"
