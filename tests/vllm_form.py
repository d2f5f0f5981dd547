"""A tiny model behind HTTP in the form of vLLM 0.32's answers, as a real one gave them.

vLLM itself is gigabytes, and needs another transformers. The numbers are the model's own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.served import serving

MAX_LOGPROBS = 20


@dataclass
class VllmForm:
    """The answers of a server."""

    model: Any
    tokenizer: Any
    names: tuple[str, ...] = ("tiny",)
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the questions so far."""
    address: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def got(self, path: str) -> dict[str, Any]:
        if path == "/version":
            return {"version": "0.32.0"}
        return {"object": "list", "data": [{"id": name, "object": "model"} for name in self.names]}

    def posted(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append(body)
        if path == "/tokenize":
            return 200, {"tokens": self.tokenized(body), "token_strs": None}
        (ids,) = body["prompt"]
        if max(ids) >= self.model.config.vocab_size:
            return 400, {"error": {"message": f"Token id {max(ids)} is out of vocabulary"}}
        return 200, {"object": "text_completion", "choices": [self.completed(ids, body)]}

    def tokenized(self, body: dict[str, Any]) -> list[int]:
        if "messages" not in body:
            ids: list[int] = self.tokenizer.encode(body["prompt"], add_special_tokens=False)
            return ids
        found = self.tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, **body["chat_template_kwargs"]
        )
        return list(found["input_ids"])

    @torch.no_grad()
    def log_probs(self, ids: list[int]) -> Tensor:
        found: Tensor = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return found

    def completed(self, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "prompt_token_ids": ids, "logprobs": None}
        choice["prompt_logprobs"] = None
        if (count := body.get("prompt_logprobs")) is not None:
            assert count <= MAX_LOGPROBS
            rows = zip(self.log_probs(ids)[:-1], ids[1:], strict=True)
            choice["prompt_logprobs"] = [None, *(told(row, id_, count) for row, id_ in rows)]
        random = torch.Generator().manual_seed(body.get("seed", 0))
        written = list[int]()
        for _ in range(body["max_tokens"]):
            row = self.log_probs([*ids, *written])[-1]
            likeliest = int(row.argmax())
            if temperature := body.get("temperature", 1.0):
                sampled = (row / temperature).softmax(-1)
                likeliest = int(torch.multinomial(sampled, 1, generator=random))
            if (count := body.get("logprobs")) is not None:
                top = row.topk(min(count, len(row)))
                pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
                choice["logprobs"] = {
                    "top_logprobs": [{f"token_id:{id_}": value for id_, value in pairs}]
                }
            written.append(likeliest)
            if likeliest == self.tokenizer.eos_token_id:
                break
        return {**choice, "token_ids": written, "text": self.tokenizer.decode(written)}


def told(row: Tensor, token_id: int, count: int) -> dict[str, Any]:
    """The likeliest tokens of (V,) log-probabilities by id, the one that stands there first."""
    ranks = row.argsort(descending=True).tolist()
    ids = dict.fromkeys([token_id, *ranks[:count]])
    return {
        str(id_): {"logprob": float(row[id_]), "rank": ranks.index(id_) + 1, "decoded_token": ""}
        for id_ in ids
    }


@contextmanager
def vllm_form(folder: Path, **ways: Any) -> Iterator[VllmForm]:
    """A server of the model in a folder, on a free port of this machine, until the block ends."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = VllmForm(model, AutoTokenizer.from_pretrained(folder), **ways)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._send(200, found.got(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with found.lock:
                status, answer = found.posted(self.path, body)
            self._send(status, answer)

        def _send(self, status: int, answer: dict[str, Any]) -> None:
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments: Any) -> None:
            pass

    with serving(Handler) as found.address:
        yield found
