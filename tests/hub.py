"""A Hub on this machine, for datasets: what huggingface_hub asks it for, and what it is told."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from huggingface_hub import constants


class DatasetHub(ThreadingHTTPServer):
    """Datasets by name, each with its commits; names of files and their content by commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.told: list[str] = []
        """What has changed something: a method and a path each."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, dataset: str) -> dict[str, bytes]:
        """The newest files of a dataset."""
        return list(self.commits[dataset].values())[-1]

    def head(self, dataset: str) -> str:
        return list(self.commits[dataset])[-1]

    def commit(self, dataset: str, files: dict[str, bytes], deleted: Collection[str] = ()) -> str:
        """Add a commit that changes and deletes these files, and return its name."""
        history = self.commits.setdefault(dataset, {})
        whole = {**(self.files(dataset) if history else {}), **files}
        whole = {name: data for name, data in whole.items() if name not in deleted}
        name = hashlib.sha1(f"{len(history)}{sorted(whole)}".encode()).hexdigest()
        history[name] = whole
        return name


@contextmanager
def serving() -> Iterator[DatasetHub]:
    hub = DatasetHub()
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: DatasetHub

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        self.wfile.write(self._read())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            self._say({"errors": [], "warnings": []})
            return
        self.server.told.append(f"POST {path}")
        if path == "/api/repos/create":
            self._create(json.loads(body))
            return
        dataset, _, rest = path.removeprefix("/api/datasets/").partition("/")[2].partition("/")
        name = f"{path.removeprefix('/api/datasets/').partition('/')[0]}/{dataset}"
        if rest.startswith("preupload/"):
            asked = json.loads(body)["files"]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            self._say({"files": [{**each, **how} for each in asked]})
            return
        rows = [json.loads(line) for line in body.splitlines()]
        files = {
            row["value"]["path"]: base64.b64decode(row["value"]["content"])
            for row in rows
            if row["key"] == "file"
        }
        deleted = [row["value"]["path"] for row in rows if row["key"] == "deletedFile"]
        commit = self.server.commit(name, files, deleted)
        address = f"{self.server.address}/datasets/{name}/commit/{commit}"
        self._say({"success": True, "commitOid": commit, "commitUrl": address})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.commits:
            self._say({"url": f"{self.server.address}/datasets/{name}"}, 409)
            return
        if name.startswith("forbidden/"):
            self._say({"error": "You don't have the rights to create a dataset there"}, 403)
            return
        # Early releases of huggingface_hub say the one, later ones the other.
        self.server.private[name] = bool(
            asked.get("private") or asked.get("visibility") == "private"
        )
        self.server.commit(name, {".gitattributes": b""})
        self._say({"url": f"{self.server.address}/datasets/{name}"})

    def _read(self) -> bytes:
        path = self.path.partition("?")[0]
        is_api = path.startswith("/api/datasets/")
        parts = path.removeprefix("/api").removeprefix("/datasets/").split("/")
        name, what = "/".join(parts[:2]), parts[2:]
        history = self.server.commits.get(name)
        if history is None:
            return self._refuse("RepoNotFound")
        revision = what[1] if len(what) > 1 else "main"
        commit = self.server.head(name) if revision == "main" else revision
        if commit not in history:
            return self._refuse("RevisionNotFound")
        files = history[commit]
        if is_api and what[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": n, "size": len(d), "oid": commit} for n, d in files.items()
            ]
            return self._send(json.dumps(tree).encode(), commit)
        if is_api:
            listed = [{"rfilename": each} for each in files]
            about = {"id": name, "sha": commit, "siblings": listed}
            return self._send(json.dumps(about).encode(), commit)
        if "/".join(what[2:]) not in files:
            return self._refuse("EntryNotFound", commit)
        return self._send(files["/".join(what[2:])], commit)

    def _refuse(self, code: str, commit: str = "") -> bytes:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return b""

    def _send(self, data: bytes, commit: str) -> bytes:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        return data

    def _say(self, answer: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def use(hub: str, cache: str, monkeypatch: Any) -> None:
    """Let huggingface_hub, in this process, ask a Hub at an address and keep files in `cache`."""
    for name, value in (
        ("ENDPOINT", hub),
        ("HUGGINGFACE_CO_URL_TEMPLATE", f"{hub}/{{repo_id}}/resolve/{{revision}}/{{filename}}"),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_CACHE", cache),
        ("HF_HUB_DISABLE_PROGRESS_BARS", True),
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
