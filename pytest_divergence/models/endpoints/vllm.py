"""The server of vLLM: what it runs, and log-probabilities at given tokens, a request for each text.

With prefix caching, which is on by default, what it tells of a prompt's tokens may depend on what
it has read before (vllm-project/vllm#42019). So each question has a salt of its own, which keeps it
apart from all others.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from pytest_divergence.models.endpoints.http_client import Connection, Server
from pytest_divergence.models.endpoints.positions import Position, checked_position
from pytest_divergence.models.fingerprints import text_digest

NUM_TOLD = 20
"""Most likely tokens that are asked for at each position: what it tells at most by default."""
NUM_AT_ONCE = 8
"""Rows that are read at the same time."""
MAX_VOCABULARY = 2**22
NUM_SEEDS = 2**31
PLAIN = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Sampling without the defaults that it takes from a model's generation_config."""
TOKEN = "token_id:"  # a prefix of the names of tokens


@dataclass(frozen=True)
class VllmServer:
    """A vLLM server that has said what it runs."""

    server: Server
    model: str
    """The model that is asked."""
    vocab_size: int
    digest: str
    """sha256 of the names of its model and version: it tells nothing of its weights."""

    template = None
    """Not known: it renders messages by itself."""
    num_told = NUM_TOLD
    num_slots = NUM_AT_ONCE
    names_weights = False
    writes = True

    @classmethod
    def asked(cls, server: Server) -> VllmServer:
        """Ask a server what it runs. Raises `MeasurementError` if it is no vLLM server."""
        with server.connected() as connection:
            version = connection.get("/version")
            if not isinstance(version, dict) or "version" not in version:
                server.refuse(
                    "does not say its version at /version, as a vLLM server does; it says "
                    f"{server.without_key(str(version))}"
                )
            model = server.listed_model(connection.get("/v1/models"))
            size = _num_tokens(server, connection, model)
        return cls(server, model, size, text_digest(f"vllm {version['version']} {model} {size}"))

    @property
    def name(self) -> str:
        """Option and address, for messages."""
        return self.server.name

    def connected(self) -> AbstractContextManager[Connection]:
        """Connect for some questions; several threads may ask within it."""
        return self.server.connected()

    def ids(self, connection: Connection, text: str) -> list[int]:
        """Return the ids of a text."""
        return self._tokenized(connection, {"prompt": text, "add_special_tokens": False})

    def prompt_ids(
        self,
        connection: Connection,
        messages: Sequence[Mapping[str, str]],
        arguments: Mapping[str, Any],
    ) -> list[int]:
        """Return the ids of messages as its own template writes them."""
        body = {"messages": list(messages), "chat_template_kwargs": dict(arguments)}
        return self._tokenized(connection, {**body, "add_generation_prompt": True})

    def positions(
        self,
        connection: Connection,
        context: Sequence[int],
        token_ids: Sequence[int],
        *,
        is_reversed: bool = False,
        is_read_anew: bool = False,
    ) -> list[Position]:
        """Return what it tells of each token of a continuation: one question, always read anew.

        Raises `MeasurementError`.
        """
        choice = self._completed(
            connection, [*context, *token_ids], max_tokens=1, prompt_logprobs=self.num_told
        )
        told = choice.get("prompt_logprobs")
        if not isinstance(told, list) or len(told) != len(context) + len(token_ids):
            self.server.refuse(f"tells nothing of a prompt: {self.server.without_key(str(told))}")
        both = zip(told[len(context) :], token_ids, strict=True)
        return [self._position(entry, token_id) for entry, token_id in both]

    def head(self, connection: Connection, context: Sequence[int]) -> Position:
        """Return what it tells of the likeliest tokens after a context of ids, the first as chosen.

        Raises `MeasurementError`.
        """
        choice = self._completed(
            connection,
            context,
            max_tokens=1,
            temperature=0.0,
            logprobs=self.num_told,
            return_tokens_as_token_ids=True,
        )
        told = choice.get("logprobs")
        heads = told.get("top_logprobs") if isinstance(told, dict) else None
        entry = heads[0] if isinstance(heads, list) and heads else None
        if not isinstance(entry, dict) or not all(name.startswith(TOKEN) for name in entry):
            self.server.refuse(f"tells no log-probabilities: {self.server.without_key(str(told))}")
        pairs = [(_id_of(name.removeprefix(TOKEN)), log_p) for name, log_p in entry.items()]
        pairs = sorted(pairs, key=_by_log_prob)[: self.num_told]
        first, log_p = pairs[0]
        return self._checked(log_p, -1 if first is None else first, pairs)

    def answer(
        self,
        connection: Connection,
        context: Sequence[int],
        limit: int,
        seed: int | None,
        temperature: float,
    ) -> list[int]:
        """Return up to `limit` ids that it writes: sampled, or the likeliest if no seed.

        Raises `MeasurementError`.
        """
        way: dict[str, Any] = {"temperature": 0.0}
        if seed is not None:
            way = {"temperature": temperature, "seed": seed % NUM_SEEDS}
        ids: Any = self._completed(connection, context, max_tokens=limit, **way).get("token_ids")
        is_list = isinstance(ids, list) and all(type(id_) is int for id_ in ids)
        is_within = is_list and 0 < len(ids) <= limit and max(ids) < self.vocab_size
        if not is_within or min(ids) < 0:
            self.server.refuse(f"was asked for 1 to {limit} tokens and writes {str(ids)[:100]}")
        return list(ids)

    def _completed(
        self, connection: Connection, context: Sequence[int], **options: Any
    ) -> dict[str, Any]:
        """Return its answer to a context of ids, in which it has read just these."""
        body = {
            "model": self.model,
            "prompt": [list(context)],
            "add_special_tokens": False,
            "return_token_ids": True,
            "cache_salt": secrets.token_hex(8),
            **PLAIN,
            **options,
        }
        answer = connection.post("/v1/completions", body)
        choices = answer.get("choices") if isinstance(answer, dict) else None
        choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
        if not isinstance(choice, dict):
            self.server.refuse(f"completes nothing: {self.server.without_key(str(answer))}")
        if choice.get("prompt_token_ids") != list(context):
            read = str(choice.get("prompt_token_ids"))[:100]
            self.server.refuse(f"was given {len(context)} ids and has read others: {read}")
        return choice

    def _position(self, entry: Any, token_id: int) -> Position:
        if not isinstance(entry, dict) or str(token_id) not in entry:
            self.server.refuse(
                f"was asked about token {token_id} and answers about {str(entry)[:100]}"
            )
        found = [
            (_id_of(name), value.get("logprob"))
            for name, value in entry.items()
            if isinstance(value, dict)
        ]
        # The token that stands there comes beside the likeliest, unless it is one of them.
        head = sorted(found, key=_by_log_prob)[: self.num_told]
        return self._checked(entry[str(token_id)].get("logprob"), token_id, head)

    def _checked(self, chosen: Any, token_id: int, head: Sequence[tuple[Any, Any]]) -> Position:
        return checked_position(
            self.server,
            chosen,
            token_id,
            head,
            num_told=self.num_told,
            vocab_size=self.vocab_size,
        )

    def _tokenized(self, connection: Connection, body: dict[str, Any]) -> list[int]:
        answer = connection.post("/tokenize", {"model": self.model, **body})
        ids = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(ids, list) or not all(type(id_) is int for id_ in ids):
            self.server.refuse(f"gives no ids of a text: {self.server.without_key(str(answer))}")
        return ids


def _num_tokens(server: Server, connection: Connection, model: str) -> int:
    """Return how many tokens it knows, which it does not say: it refuses the first id above."""

    def is_known(token_id: int) -> bool:
        body = {"model": model, "prompt": [[token_id]], "max_tokens": 1}
        return connection.accepts("/v1/completions", body)

    if is_known(MAX_VOCABULARY) or not is_known(0):
        server.refuse("does not tell known ids from others, so its vocabulary is not known")
    low, high = 0, MAX_VOCABULARY
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_known(middle) else (low, middle)
    return high


def _id_of(name: Any) -> int | None:
    return int(name) if isinstance(name, str) and name.isdecimal() else None


def _by_log_prob(pair: tuple[Any, Any]) -> float:
    """Order by log-probability, the largest first; what is no number comes first, to be refused."""
    is_number = isinstance(pair[1], (int, float)) and not isinstance(pair[1], bool)
    return -pair[1] if is_number else -float("inf")
