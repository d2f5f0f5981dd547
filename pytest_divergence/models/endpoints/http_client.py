"""Questions to a server, and its answers as JSON: within limits of time and size.

Follows no redirect, takes no proxy from the environment, and shows no key. Does not know what is
asked (`pytest_divergence.models.endpoints.llamacpp`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_divergence.core.errors import MeasurementError, ModelLoadError
from pytest_divergence.core.safe_text import safe_line, visible
from pytest_divergence.models.specs import TIMEOUT, ModelSpec

if TYPE_CHECKING:
    import httpx

MAX_ANSWER_BYTES = 64 * 2**20
"""Bytes of one answer: a distribution over 200,000 tokens is a third of it."""
NO_TIME = (429, 503)
"""HTTP states of a server that may answer later."""
MAX_QUOTED = 200
"""Characters of a server's answer in a message."""


@dataclass(frozen=True)
class Server:
    """A server by the spec that names it; `role` is the option that the spec came from."""

    spec: ModelSpec
    role: str

    @property
    def name(self) -> str:
        """Option and address, for the beginning of a message."""
        return f"{self.role} ({visible(str(self.spec), 200)})"

    @property
    def timeout(self) -> float:
        """Seconds that one answer may take."""
        return self.spec.timeout or TIMEOUT

    def refuse(self, fault: str) -> NoReturn:
        """Raise `MeasurementError` for an answer that cannot be used; `fault` says why."""
        raise MeasurementError(f"{self.name} {fault}")

    @contextmanager
    def connected(self, *, keeps_alive: bool = True) -> Iterator[Connection]:
        """Connect for some questions; several threads may ask within it.

        A server with fewer threads than connections never turns to those that wait while it
        `keeps_alive` the others.
        """
        httpx = _httpx(self.role)
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        client = httpx.Client(
            base_url=self.spec.location,
            headers=headers,
            timeout=self.timeout,
            follow_redirects=False,
            limits=httpx.Limits(max_keepalive_connections=None if keeps_alive else 0),
            verify=self.spec.location.startswith("https:"),  # else no certificates are read
            trust_env=False,  # no proxy and no .netrc: prompts go to this server alone
        )
        with client:
            yield Connection(self, client)

    def listed_model(self, answer: Any) -> str:
        """Return the model to ask, from what a server lists: the spec's, or the only one there is.

        Raises `MeasurementError`.
        """
        listed = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(listed, list):
            self.refuse(f"lists no models: {self.without_key(str(answer))}")
        names = [str(entry.get("id")) for entry in listed if isinstance(entry, dict)]
        wanted = self.spec.model or (names[0] if len(names) == 1 else None)
        if wanted is None or wanted not in names:
            missing = "is not told which model to ask" if wanted is None else f"has no {wanted!r}"
            self.refuse(f"{missing}; add model=NAME, one of {self.without_key(str(names))}")
        return wanted

    def without_key(self, text: str) -> str:
        """Return a server's text for a message; some servers repeat the key they were sent."""
        return safe_line(text if self._key is None else text.replace(self._key, "…"), MAX_QUOTED)

    @property
    def _key(self) -> str | None:
        name = self.spec.key_env
        if name is None:
            return None
        key = os.environ.get(name, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise ModelLoadError(
                f"{self.role}: key_env={name}, but the environment variable {name} holds no key; "
                "set it, or leave key_env out"
            )
        return key


@dataclass(frozen=True)
class Connection:
    """An open connection to a server."""

    server: Server
    client: httpx.Client

    def get(self, path: str) -> Any:
        """Return the JSON at a path. Raises `MeasurementError`, with the server's own answer."""
        return self._asked("GET", path, None)

    def post(self, path: str, body: dict[str, Any], *, tries: int = 1) -> Any:
        """Return the JSON answer to a question. Raises `MeasurementError` as `get` does.

        With more than one of `tries`, a server that has no time is asked again, after a while.
        """
        named = {} if self.server.spec.model is None else {"model": self.server.spec.model}
        return self._asked("POST", path, {**named, **body}, tries)

    def accepts(self, path: str, body: dict[str, Any]) -> bool:
        """Whether a server takes a question: it refuses a wrong one with HTTP 400.

        Raises `MeasurementError` for any other answer.
        """
        status, text = self._answered("POST", path, body)
        if status not in (200, 400):
            self._refuse_status(status, path, text)
        return status == 200

    def _asked(self, method: str, path: str, body: dict[str, Any] | None, tries: int = 1) -> Any:
        server = self.server
        status, text = self._answered(method, path, body)
        for wait in range(1, tries):
            if status not in NO_TIME:
                break
            time.sleep(min(2.0**wait, server.timeout))
            status, text = self._answered(method, path, body)
        if status != 200:
            self._refuse_status(status, path, text)
        try:
            return json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError):
            server.refuse(f"answers {path} with what is not JSON: {server.without_key(text)}")

    def _refuse_status(self, status: int, path: str, text: str) -> NoReturn:
        shown = self.server.without_key(text)
        self.server.refuse(f"answers {path} with HTTP {status}: {shown}")

    def _answered(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, str]:
        """Return status and text of an answer. Raises `MeasurementError` if there is none."""
        httpx, server = _httpx(self.server.role), self.server
        try:
            return self._exchanged(method, path, body)
        except httpx.TimeoutException:
            server.refuse(f"did not answer {path} within {server.timeout:g} s; {_SLOW}")
        except httpx.HTTPError as error:
            reason = server.without_key(str(error) or type(error).__name__)
            server.refuse(f"cannot be asked for {path}: {reason}; is the server running?")

    def _exchanged(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, str]:
        """Return status and text of an answer, read only as far as the limits go."""
        server, started = self.server, time.monotonic()
        with self.client.stream(method, path, json=body) as response:
            if response.is_redirect:
                server.refuse(
                    f"answers {path} with a redirect (HTTP {response.status_code}), and none is "
                    "followed; give the address that it leads to"
                )
            parts, size = list[bytes](), 0
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > MAX_ANSWER_BYTES:
                    server.refuse(f"answers {path} with more than {MAX_ANSWER_BYTES >> 20} MiB")
                if time.monotonic() - started > server.timeout:
                    server.refuse(f"did not finish {path} within {server.timeout:g} s; {_SLOW}")
            return response.status_code, b"".join(parts).decode("utf-8", "replace")


_SLOW = "add timeout=SECONDS to the spec if it is only slow"


def _no_number(name: str) -> NoReturn:
    """Refuse NaN and infinity, which JSON does not have but Python reads."""
    raise ValueError(name)


def _httpx(role: str) -> Any:
    try:
        import httpx
    except ImportError:
        raise ModelLoadError(
            f"{role} is served, and httpx, which asks it, is not installed; run: "
            "pip install 'pytest-divergence[endpoints]'"
        ) from None
    return httpx
