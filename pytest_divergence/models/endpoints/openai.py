"""Any server that speaks OpenAI's interface for chats, which tells no probabilities: text alone.

It renders messages by its own template, so neither its tokenizer nor its template can be compared
with the pair's. Its samples are taken at temperature 1 with nothing cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NoReturn

from pytest_divergence.core.cases import Message
from pytest_divergence.core.errors import MeasurementError, ModelLoadError
from pytest_divergence.models.endpoints.http_client import Connection, Server
from pytest_divergence.models.endpoints.positions import Position
from pytest_divergence.models.fingerprints import text_digest

NUM_AT_ONCE = 8
"""Answers that are asked for at the same time."""
NUM_TRIES = 5
"""Times that it is asked for an answer while it says that it has no time."""
NUM_TRIAL_ANSWERS = 4
TRIAL_PROMPT = "Write the first sentence of a story about a lighthouse."
"""A prompt to which no two sampled answers are likely the same."""
TRIAL_LENGTH = 16


@dataclass(frozen=True)
class OpenAiServer:
    """A server that has said which models it has."""

    server: Server
    model: str
    """The model that is asked."""

    vocab_size = 0
    """Not known: it tells no tokens."""
    num_told = 0
    num_slots = NUM_AT_ONCE
    names_weights = False
    writes = True

    @classmethod
    def asked(cls, server: Server) -> OpenAiServer:
        """Ask a server which models it has. Raises `MeasurementError` if it has not the wanted one.

        A server with a single model needs no name of it in the spec; one that lists none needs it.
        """
        with server.connected() as connection:
            try:
                listed = connection.get("/models")
            except MeasurementError:
                if server.spec.model is None:
                    raise
                return cls(server, server.spec.model)  # it may list nothing and still answer
            return cls(server, server.listed_model(listed))

    @property
    def name(self) -> str:
        """Option and address, for messages."""
        return self.server.name

    @property
    def role(self) -> str:
        """Option that it was named by."""
        return self.server.role

    @property
    def digest(self) -> str:
        """sha256 of its address and model: nothing is known of its weights."""
        return text_digest(f"openai {self.server.spec.location} {self.model}")

    def connected(self) -> AbstractContextManager[Connection]:
        """Connect for some questions; several threads may ask within it."""
        return self.server.connected(keeps_alive=False)

    def try_out(self) -> None:
        """Check that it samples. Raises `ModelLoadError` if it writes one answer again and again.

        A cache before it, or a temperature of its own, would make any test of its answers wrong.
        """
        prompt = (Message(role="user", content=TRIAL_PROMPT),)
        [answers] = self.sampled([prompt], NUM_TRIAL_ANSWERS, TRIAL_LENGTH, seed=0)
        if len(set(answers)) == 1:
            raise ModelLoadError(
                f"{self.name} was asked {NUM_TRIAL_ANSWERS} times at temperature 1 and writes the "
                f"same each time: {self.server.without_key(answers[0])}; it does not sample, or a "
                "cache answers for it"
            )

    def sampled(
        self, prompts: Sequence[Sequence[Message]], count: int, limit: int, *, seed: int
    ) -> list[list[str]]:
        """Return `count` answers of at most `limit` of its tokens to each prompt, at temperature 1.

        Each is asked for with a seed of its own, which a server may heed or not. Raises
        `MeasurementError`.
        """
        asked = [messages for messages in prompts for _ in range(count)]
        with self.connected() as connection, ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            answers = list(
                pool.map(
                    lambda messages, seed: self._answer(connection, messages, seed, limit),
                    asked,
                    range(seed, seed + len(asked)),
                )
            )
        return [answers[start : start + count] for start in range(0, len(answers), count)]

    def positions(
        self, connection: Any, context: Sequence[int], token_ids: Sequence[int], **_: bool
    ) -> list[Position]:
        """Raise `MeasurementError`: it tells no probabilities."""
        self._tells_text_alone()

    def head(self, connection: Any, context: Sequence[int]) -> Position:
        """Raise `MeasurementError`: it tells no probabilities."""
        self._tells_text_alone()

    def answer(
        self,
        connection: Any,
        context: Sequence[int],
        limit: int,
        seed: int | None,
        temperature: float,
    ) -> list[int]:
        """Raise `MeasurementError`: it neither takes nor gives ids."""
        self._tells_text_alone()

    def _answer(
        self, connection: Connection, messages: Sequence[Message], seed: int, limit: int
    ) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in messages],
            "max_tokens": limit,
            "temperature": 1.0,
            "top_p": 1.0,
            "seed": seed,
        }
        answer = connection.post("/chat/completions", body, tries=NUM_TRIES)
        choices = answer.get("choices") if isinstance(answer, dict) else None
        first = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
        message = first.get("message") if isinstance(first, dict) else None
        text = message.get("content") if isinstance(message, dict) else None
        if not isinstance(text, str):
            self.server.refuse(f"writes no text: {self.server.without_key(str(answer))}")
        return text

    def _tells_text_alone(self) -> NoReturn:
        self.server.refuse(
            "tells no probabilities, only what it writes, so nothing can be measured in nats; "
            "replay a suite, whose answers are then compared as texts"
        )
