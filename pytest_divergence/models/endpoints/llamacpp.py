"""The server of llama.cpp: what it says of its model, and log-probabilities at given tokens.

The server tells no log-probabilities of a prompt, but those of the next token exactly: of the K
likeliest, and of the one that is written. A bias so large that a given token must be written makes
that the one that is told; told values are the model's own, from before any bias. So each position
is a request, which reads only one new token where the server keeps what it has read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from pytest_divergence.models.endpoints.http_client import Connection, Server
from pytest_divergence.models.endpoints.positions import Position, checked_position
from pytest_divergence.models.fingerprints import text_digest

NUM_TOLD = 64
"""Most likely tokens that are asked for at each position."""
BIAS = 1000.0
"""Added to a token's logit, so that it is written whatever the model would write."""
MAX_SLOTS = 8
"""Rows that are read at the same time, at most."""
PLAIN_TEXT = "a"
"""Text whose tokens end with a character."""
NUM_SEEDS = 2**32 - 1
"""Seeds below it are used as they are; it stands for a random one."""
SAYS_OF_WEIGHTS = ("vocab_type", "n_vocab", "n_embd", "n_params", "size", "ftype")
"""Keys of what a server says of the file that it runs; none says where that lies."""


@dataclass(frozen=True)
class LlamaCppServer:
    """A llama.cpp server that has said what it runs."""

    server: Server
    vocab_size: int
    template: str | None
    """The chat template that it applies by itself."""
    num_slots: int
    """Rows that it reads at the same time."""
    digest: str
    """sha256 of what it says of its weights: equal for the same file, not only for that."""
    num_told: int = NUM_TOLD
    """Most likely tokens that it tells at each position."""

    @classmethod
    def asked(cls, server: Server) -> LlamaCppServer:
        """Ask a server what it runs. Raises `MeasurementError` if it is no llama.cpp server."""
        with server.connected() as connection:
            props, models = connection.get("/props"), connection.get("/v1/models")
        listed = models.get("data") if isinstance(models, dict) else None
        entries = [entry for entry in listed or [] if isinstance(entry, dict)]
        wanted = server.spec.model
        if wanted is not None:
            names = [str(entry.get("id")) for entry in entries]
            if wanted not in names:
                server.refuse(f"has no model {wanted!r}; it has {server.without_key(str(names))}")
            entries = [entry for entry in entries if entry.get("id") == wanted]
        meta = entries[0].get("meta") if entries else None
        if not isinstance(props, dict) or not isinstance(meta, dict):
            server.refuse(
                "does not say what it runs at /props and /v1/models, as a llama.cpp server does; "
                f"it says {server.without_key(str(models))}"
            )
        size, slots = meta.get("n_vocab"), props.get("total_slots")
        template = props.get("chat_template")
        if not isinstance(size, int) or not isinstance(slots, int) or min(size, slots) < 1:
            server.refuse(f"says that it has {size!r} tokens and {slots!r} slots")
        said = {name: meta.get(name) for name in SAYS_OF_WEIGHTS}
        return cls(
            server,
            size,
            template if isinstance(template, str) and template else None,
            min(slots, MAX_SLOTS),
            text_digest(f"llamacpp {sorted(said.items())} {wanted}"),
            min(NUM_TOLD, size),
        )

    def prompt_ids(
        self,
        connection: Connection,
        messages: Sequence[Mapping[str, str]],
        arguments: Mapping[str, Any],
    ) -> list[int]:
        """Return the ids of messages as its own template writes them."""
        body = {"messages": list(messages), "chat_template_kwargs": dict(arguments)}
        answer = connection.post("/apply-template", body)
        text = answer.get("prompt") if isinstance(answer, dict) else None
        if not isinstance(text, str):
            self.server.refuse(f"renders no prompt: {self.server.without_key(str(answer))}")
        return self._ids(connection, text, is_rendered=True)

    def ids(self, connection: Connection, text: str) -> list[int]:
        """Return the ids of a text."""
        return self._ids(connection, text, is_rendered=False)

    def _ids(self, connection: Connection, text: str, *, is_rendered: bool) -> list[int]:
        """Return the ids of a text, whose control tokens are read only if it was rendered."""
        body = {"content": text, "add_special": False, "parse_special": is_rendered}
        answer = connection.post("/tokenize", body)
        ids = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(ids, list) or not all(isinstance(id_, int) for id_ in ids):
            self.server.refuse(f"gives no ids of a text: {self.server.without_key(str(answer))}")
        return ids

    names_weights = False
    """Whether an equal digest means equal weights."""
    writes = True

    @property
    def name(self) -> str:
        """Option and address, for messages."""
        return self.server.name

    @property
    def role(self) -> str:
        """Option that it was named by."""
        return self.server.role

    def connected(self) -> AbstractContextManager[Connection]:
        """Connect for some questions; several threads may ask within it."""
        return self.server.connected()

    def positions(
        self,
        connection: Connection,
        context: Sequence[int],
        token_ids: Sequence[int],
        *,
        is_reversed: bool = False,
        is_read_anew: bool = False,
    ) -> list[Position]:
        """Return what it tells of each token of a continuation, asked in order or from its end.

        Raises `MeasurementError`.
        """
        order = range(len(token_ids))[:: -1 if is_reversed else 1]
        found = {
            at: self.position(
                connection, [*context, *token_ids[:at]], token_ids[at], is_read_anew=is_read_anew
            )
            for at in order
        }
        return [found[at] for at in range(len(token_ids))]

    def position(
        self,
        connection: Connection,
        context: Sequence[int],
        token_id: int,
        *,
        is_read_anew: bool = False,
    ) -> Position:
        """Return what it tells of `token_id`, and of the likeliest tokens, after a context of ids.

        With `is_read_anew` it may keep nothing that it has read before. Raises `MeasurementError`.
        """
        way = {"cache_prompt": not is_read_anew}
        answer = self._forced(connection, context, token_id, n_probs=self.num_told, **way)
        if answer.get("completion_probabilities") in (None, []):
            # It tells nothing of a token that ends within a character: all tokens, beside another.
            other = self._plain_id(connection)
            answer = self._forced(connection, context, other, n_probs=self.vocab_size, **way)
            _, head = self._told(answer, other)
            return self._checked(dict(head).get(token_id), token_id, head[: self.num_told])
        chosen, head = self._told(answer, token_id)
        return self._checked(chosen, token_id, head)

    def head(self, connection: Connection, context: Sequence[int]) -> Position:
        """Return what it tells of the likeliest tokens after a context of ids, the first as chosen.

        Raises `MeasurementError`.
        """
        answer = self._completed(connection, context, n_predict=1, n_probs=self.num_told)
        written = answer["tokens"][0] if answer["tokens"] else None
        if written is None or answer.get("completion_probabilities") in (None, []):
            # It tells nothing of a token that ends within a character.
            return self.position(connection, context, self._plain_id(connection))
        chosen, head = self._told(answer, written)
        return self._checked(chosen, written, head)

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
        way = {} if seed is None else {"temperature": temperature, "seed": seed % NUM_SEEDS}
        ids = self._completed(connection, context, n_predict=limit, **way)["tokens"]
        is_within = 0 < len(ids) <= limit and all(0 <= id_ < self.vocab_size for id_ in ids)
        if not is_within:
            self.server.refuse(f"was asked for 1 to {limit} tokens and writes {str(ids)[:100]}")
        return list(ids)

    def _plain_id(self, connection: Connection) -> int:
        return self.ids(connection, PLAIN_TEXT)[0]

    def _forced(
        self, connection: Connection, context: Sequence[int], token_id: int, **options: Any
    ) -> dict[str, Any]:
        """Return its answer after a context, in which it has written `token_id`."""
        answer = self._completed(
            connection,
            context,
            n_predict=1,
            logit_bias=[[token_id, BIAS]],
            **options,
        )
        if answer["tokens"] != [token_id]:
            self.server.refuse(
                f"was asked about token {token_id} and answers about {str(answer['tokens'])[:100]}"
            )
        return answer

    def _told(self, answer: Mapping[str, Any], token_id: int) -> tuple[Any, list[tuple[Any, Any]]]:
        """Return ln p of the token that was written, and ids with ln p of the likeliest."""
        told = answer.get("completion_probabilities")
        entry = told[0] if isinstance(told, list) and len(told) == 1 else None
        head = entry.get("top_logprobs") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(head, list):
            self.server.refuse(f"tells no log-probabilities: {self.server.without_key(str(told))}")
        if entry.get("id") != token_id:
            self.server.refuse(
                f"was asked about token {token_id} and answers about {str(entry.get('id'))[:100]}"
            )
        pairs = [(item.get("id"), item.get("logprob")) for item in head if isinstance(item, dict)]
        return entry.get("logprob"), pairs

    def _checked(self, chosen: Any, token_id: int, head: Sequence[tuple[Any, Any]]) -> Position:
        return checked_position(
            self.server,
            chosen,
            token_id,
            head,
            num_told=self.num_told,
            vocab_size=self.vocab_size,
        )

    def _completed(
        self, connection: Connection, context: Sequence[int], **options: Any
    ) -> dict[str, Any]:
        """Return its answer to a context of ids, in which it has read just these."""
        # Without its own defaults, which cut the distribution; at temperature 0 the likeliest.
        plain = {"samplers": ["temperature"], "temperature": 0, "return_tokens": True}
        asked = {"prompt": list(context), **plain, **options}
        answer = connection.post("/completion", asked)
        if not isinstance(answer, dict):
            self.server.refuse(f"completes nothing: {self.server.without_key(str(answer))}")
        num_read, ids = answer.get("tokens_evaluated"), answer.get("tokens")
        if num_read != len(context) or answer.get("truncated"):
            self.server.refuse(
                f"was given {len(context)} ids and has read {num_read}"
                + (", the rest was cut" if answer.get("truncated") else "")
            )
        if not isinstance(ids, list) or not all(type(id_) is int for id_ in ids):
            self.server.refuse(f"writes no ids: {self.server.without_key(str(answer))}")
        return answer
