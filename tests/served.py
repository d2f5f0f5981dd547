"""A real llama.cpp server with a tiny model, and a proxy that can lie for it.

The server is xllamacpp's: llama.cpp's own, in this process, on a free port of this machine.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import xllamacpp

Answer = dict[str, Any] | list[Any]
Change = Callable[[str, Answer, int], Answer]
"""Function from a path, the server's own answer and the number of the question to the answer."""


@contextmanager
def llama_server(path: Path, *, num_slots: int = 1, name: str | None = None) -> Iterator[str]:
    """The address of a server of one GGUF file, which ends with the block."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    if name is not None:
        parameters.model_alias = {name}
    parameters.n_ctx = 1024 * num_slots
    parameters.n_parallel = num_slots
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.verbosity = -1
    parameters.sampling.top_k, parameters.sampling.min_p = 0, 0.0  # answers from all tokens
    server = xllamacpp.Server(parameters)
    yield server.listening_address
    del server  # its own way to stop


@dataclass
class Proxy:
    """A server before another one: passes questions on, and changes answers as it is told."""

    target: str
    change: Change = lambda path, answer, number: answer
    redirects_to: str | None = None
    stalls: float = 0.0
    """Seconds before each answer."""
    raw: bytes | None = None
    """The body of each answer, in place of the server's."""
    status: int = 200
    needs_key: str | None = None
    lost_path: str = ""
    """Path that it does not know."""
    num_busy: int = 0
    """Questions for answers that it has no time for at first."""
    refuses: bytes = b""
    """Text whose questions it answers with HTTP 400."""
    asked: list[str] = field(default_factory=list)
    """Paths of the questions so far."""
    address: str = ""
    client: httpx.Client = field(
        default_factory=lambda: httpx.Client(trust_env=False, verify=False, timeout=60)
    )

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        self.asked.append(path)
        if path == self.lost_path:
            return 404, b"{}"
        if self.num_busy and path.endswith("/completions"):
            self.num_busy -= 1
            return 429, b"{}"
        if self.refuses and self.refuses in body:
            return 400, b"{}"
        if self.raw is not None:
            return self.status, self.raw
        headers = {"Content-Type": "application/json"}
        passed_on = self.client.request(method, self.target + path, content=body, headers=headers)
        if passed_on.status_code != 200:
            return passed_on.status_code, passed_on.content
        changed = self.change(path, passed_on.json(), len(self.asked))
        return self.status, json.dumps(changed).encode()


@contextmanager
def proxy(target: str, **ways: Any) -> Iterator[Proxy]:
    """A proxy on a free port of this machine, which ends with the block."""
    found = Proxy(target, **ways)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(found.stalls)
            key = self.headers.get("Authorization", "")
            if found.redirects_to is not None:
                self.send_response(302)
                self.send_header("Location", found.redirects_to)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if found.needs_key is not None and key != f"Bearer {found.needs_key}":
                status, answer = 401, json.dumps({"error": f"wrong key: {key}"}).encode()
            else:
                status, answer = found.answer(self.command, self.path, body)
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
            except (BrokenPipeError, ConnectionResetError):
                pass  # whoever asked waits no longer

        do_GET = do_POST = _handle  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            pass

    try:
        with serving(Handler) as found.address:
            yield found
    finally:
        found.client.close()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of an HTTP server on a free port of this machine, which ends with the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
